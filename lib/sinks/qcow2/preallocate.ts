import { zeroBlock } from '../../core/pool.ts';
import type { Storage } from '../../storage/storage.ts';
import { writeZeros } from '../zeros.ts';
import { writeCluster } from './cluster.ts';
import type { Qcow2Image } from './image.ts';
import type { Preallocation } from './settings.ts';

/**
 * Gives every guest cluster its host cluster. `metadata` leaves these as holes, `falloc` reserves their
 * space, `full` writes zeros to them. With extended L2 entries the subclusters stay unallocated, so that a
 * backing file shows through. Encrypted clusters are told as zeros, since what lies in a hole is none; where version 2 can't
 * tell it, zeros are written.
 * @param from guest clusters before this offset stay as they are
 * @param to where the disk ends, or will end when it has grown
 */
export async function preallocate(
  image: Qcow2Image,
  mode: Preallocation,
  { from, to }: { from: number; to: number } = { from: 0, to: image.header.size },
): Promise<void> {
  if (mode === 'off') return;
  const { clusterSize, l2Entries } = image.geometry;
  const clusters = Math.ceil(to / clusterSize);
  for (let cluster = Math.ceil(from / clusterSize); cluster < clusters; ) {
    const count = Math.min(l2Entries - (cluster % l2Entries), clusters - cluster);
    await image.metadata.run(() => preallocateTable(image, { cluster, count, mode }));
    cluster += count;
  }
  if (image.external) await fill(image.data, { offset: from, length: to - from, mode });
}

interface ClusterSpan {
  /** Guest clusters under one L2 table. */
  cluster: number;
  count: number;
  mode: Preallocation;
}

async function preallocateTable(image: Qcow2Image, { cluster, count, mode }: ClusterSpan): Promise<void> {
  const { clusterSize, l2Entries, extendedL2 } = image.geometry;
  const page = await image.tableForWrite(Math.floor(cluster / l2Entries));
  const canMark = image.header.version >= 3;
  const zero = image.cipher !== null && !extendedL2 && canMark ? 1 : 0;
  const allocated = extendedL2 || zero === 1 ? 0 : 1;
  try {
    for (let done = 0; done < count; ) {
      const run = image.external
        ? { offset: (cluster + done) * clusterSize, clusters: count - done, fresh: true }
        : await image.refcounts.allocate(count - done);
      const length = run.clusters * clusterSize;
      // What was given up once still holds what it held.
      if (!run.fresh && !image.fresh) await image.storage.zero(run.offset, length);
      if (!image.external) await fill(image.storage, { offset: run.offset, length, mode });
      for (let index = 0; index < run.clusters; index += 1) {
        const host = run.offset + index * clusterSize;
        writeCluster(image, page.bytes, ((cluster + done) % l2Entries) + index, {
          host,
          copied: true,
          allocated,
          zero,
        });
      }
      if (!canMark) await encryptZeros(image, (cluster + done) * clusterSize, run.offset, length);
      page.dirty = true;
      done += run.clusters;
    }
  } finally {
    page.pins -= 1;
  }
}

async function encryptZeros({ cipher, data }: Qcow2Image, guest: number, host: number, length: number): Promise<void> {
  if (cipher === null) return;
  await writeZeros({ start: guest, end: guest + length }, (at, zeros) =>
    cipher.write(data, { guest: at, host: host + at - guest }, [zeros]),
  );
}

/** Sees to it that the range exists in the file, and takes as much space as the mode demands. */
async function fill(
  storage: Storage,
  { offset, length, mode }: { offset: number; length: number; mode: Preallocation },
): Promise<void> {
  if (mode === 'metadata') {
    if (storage.size < offset + length && !storage.fixedSize) await storage.truncate(offset + length);
    return;
  }
  await storage.allocate(offset, length);
  if (mode !== 'full') return;
  const zeros = Array.from({ length: 16 }, zeroBlock);
  for (let done = 0; done < length; ) {
    const part = Math.min(length - done, zeros.length * zeros[0].length);
    if (part === zeros.length * zeros[0].length) await storage.writev(offset + done, zeros);
    else await storage.write(offset + done, Buffer.alloc(part));
    done += part;
  }
}
