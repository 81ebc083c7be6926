import { writeU64BE } from '../../../core/binary.ts';
import { ensure } from '../../../core/errors.ts';
import {
  ExtensionType,
  encodeHead,
  encodeSnapshotEntry,
  INCOMPATIBLE_FEATURES_AT,
  Incompatible,
} from '../../../layouts/qcow2/index.ts';
import { Qcow2Image } from '../image.ts';
import type { CheckedImage } from './context.ts';
import type { ClusterCounts } from './counts.ts';
import type { SnapshotTable } from './snapshots.ts';

/** Where the header names the snapshot table: its offset (64 bits) follows the count (32). */
const SNAPSHOTS_OFFSET_AT = 64;

/**
 * Writes the snapshot table anew, in another place and with all that a version 3 image must say; the header refers to
 * it only when it is complete. The refcounts must be right by now; `counts` are told of what is freed.
 */
export async function rewriteSnapshots(
  image: CheckedImage,
  { entries, bytes }: SnapshotTable,
  counts: ClusterCounts,
): Promise<void> {
  const { storage, header, tail, geometry } = image;
  const table = Buffer.concat(entries.map((entry) => encodeSnapshotEntry(entry, header.size)));
  const l1 = Buffer.alloc(header.l1Entries * 8);
  (await image.readTable(header.l1Offset, l1.length)).copy(l1);
  const refcountTable = image.refcountTable;
  const shared = { storage, data: storage, header, tail, geometry, backing: null, cipher: null, fresh: false };
  const writer = new Qcow2Image({ ...shared, l1, refcountTable });
  const clustersOf = (length: number) => Math.ceil(length / geometry.clusterSize);
  await writer.metadata.run(async () => {
    const offset = await writer.refcounts.allocateTogether(clustersOf(table.length));
    await writer.commit();
    await storage.write(offset, table);
    await storage.flush();
    const field = Buffer.alloc(8);
    writeU64BE(field, 0, offset);
    await storage.write(SNAPSHOTS_OFFSET_AT, field);
    await storage.flush();
    const old = header.snapshotsOffset / geometry.clusterSize;
    for (let cluster = old; cluster < old + clustersOf(bytes); cluster += 1) counts.add(cluster, -1);
    writer.refcounts.release(header.snapshotsOffset, clustersOf(bytes));
    header.snapshotsOffset = offset;
    await writer.commit();
    // Carrying the release out changed refcounts once more.
    await writer.commit();
    await storage.flush();
  });
}

/** Takes the bitmaps extension out of the header, before the clusters of its bitmaps are taken back. */
export async function forgetBitmaps(image: CheckedImage): Promise<void> {
  const { storage, header, tail } = image;
  tail.extensions = tail.extensions.filter(({ type }) => type !== ExtensionType.bitmaps);
  const head = encodeHead(header, tail);
  ensure(head !== null, 'The header extensions do not fit into the first cluster', { file: storage.name });
  await storage.write(0, head);
  await storage.flush();
}

/** A clean image is neither dirty nor corrupt ("incompatible features", bits 0 and 1). */
export async function clearDamageBits({ storage, header }: CheckedImage): Promise<void> {
  const damage = Incompatible.dirty | Incompatible.corrupt;
  if (header.version < 3 || (header.incompatible & damage) === 0n) return;
  await storage.flush();
  header.incompatible &= ~damage;
  const word = Buffer.alloc(8);
  word.writeBigUInt64BE(header.incompatible);
  await storage.write(INCOMPATIBLE_FEATURES_AT, word);
}
