import { type GuestRange, writeZeros } from '../../zeros.ts';
import { readCluster, releaseCluster, writeCluster } from '../cluster.ts';
import { isBacked } from '../cow.ts';
import type { Qcow2Image } from '../image.ts';
import type { Qcow2Target } from '../target.ts';

/**
 * Does away with zero clusters, which version 2 does not have: over a backing file zeros are written, elsewhere the cluster is given up.
 * At any moment the disk reads the same.
 * @param onTable told of the tables that are done, and of how many there are
 */
export async function expandZeroClusters(
  image: Qcow2Image,
  target: Qcow2Target,
  onTable: (done: number, tables: number) => void,
): Promise<void> {
  const tables = image.activeL1.entries;
  for (let l1Index = 0; l1Index < tables; l1Index += 1) {
    const backed = await image.metadata.run(() => giveUpUnbacked(image, l1Index));
    for (const range of backed) await writeZeros(range, (at, zeros) => target.write(at, zeros));
    onTable(l1Index + 1, tables);
  }
}

/** Clears zero clusters that have nothing behind them; returns where the others are. */
async function giveUpUnbacked(image: Qcow2Image, l1Index: number): Promise<GuestRange[]> {
  const { clusterSize, l2Entries, l2Coverage } = image.geometry;
  const backed: GuestRange[] = [];
  const found = await image.table(l1Index);
  if (found === null) return backed;
  found.pins -= 1;
  const zeros: number[] = [];
  for (let index = 0; index < l2Entries; index += 1) {
    if (readCluster(image, found.bytes, index).zero !== 0) zeros.push(index);
  }
  if (zeros.length === 0) return backed;
  const page = await image.tableForWrite(l1Index);
  try {
    for (const index of zeros) {
      const start = l1Index * l2Coverage + index * clusterSize;
      const isInside = start < image.header.size;
      if (isInside && isBacked(image, start)) {
        backed.push({ start, end: Math.min(start + clusterSize, image.header.size) });
        continue;
      }
      releaseCluster(image, readCluster(image, page.bytes, index));
      writeCluster(image, page.bytes, index, { host: -1, copied: false, allocated: 0, zero: 0 });
      page.dirty = true;
    }
  } finally {
    page.pins -= 1;
  }
  return backed;
}
