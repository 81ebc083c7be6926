import { deflateRaw, zstdCompress } from '../../core/codecs.ts';
import { ImageError } from '../../core/errors.ts';
import { encodeCompressed, maxCompressedOffset } from '../../layouts/qcow2/index.ts';
import type { PackedWriter } from '../packed-writer.ts';
import type { ClusterCompressor } from '../target.ts';
import { readCluster, releaseCluster } from './cluster.ts';
import type { Qcow2Image } from './image.ts';

/** Readers are only required to keep a window of 4 KiB ("Compressed Clusters Descriptor": deflate, window bits 12). */
const DEFLATE_WINDOW_BITS = 12;

/** Compresses single clusters by the image's compression type; absent where it can have none. */
export function clusterCompressor(image: Qcow2Image): ClusterCompressor | undefined {
  // What is compressed is not encrypted: readers expect it plain, and so it would lie there.
  if (image.external || image.cipher !== null) return undefined;
  const { clusterSize } = image.geometry;
  const { compressionType } = image.header;
  return {
    unit: clusterSize,
    async compress(plain) {
      const cluster = plain.length === clusterSize ? plain : padded(plain, clusterSize);
      const packed =
        compressionType === 'zstd'
          ? await zstdCompress(cluster)
          : await deflateRaw(cluster, { windowBits: DEFLATE_WINDOW_BITS });
      return packed.length < clusterSize ? packed : null;
    },
  };
}

function padded(plain: Buffer, size: number): Buffer {
  const cluster = Buffer.alloc(size);
  plain.copy(cluster);
  return cluster;
}

/**
 * Writes one compressed cluster at guest `offset`, which the caller holds. Compressed clusters lie one
 * behind the other, several in a host cluster, each counted in the refcount of all that it touches.
 */
export async function writeCompressedCluster(
  image: Qcow2Image,
  writer: PackedWriter,
  { offset, packed }: { offset: number; packed: Buffer },
): Promise<void> {
  const { clusterSize, clusterBits, l2Coverage, l2Entries, l2EntrySize } = image.geometry;
  const { page, host } = await image.metadata.run(async () => {
    const page = await image.tableForWrite(Math.floor(offset / l2Coverage));
    try {
      return { page, host: await reserve(image, packed.length) };
    } catch (error) {
      page.pins -= 1;
      throw error;
    }
  });
  try {
    await writer.write(host, packed);
    const index = Math.floor(offset / clusterSize) % l2Entries;
    const old = readCluster(image, page.bytes, index);
    const at = index * l2EntrySize;
    encodeCompressed(page.bytes, at, { offset: host, packedLength: packed.length, clusterBits });
    if (l2EntrySize === 16) page.bytes.fill(0, at + 8, at + 16);
    page.dirty = true;
    releaseCluster(image, old);
  } catch (error) {
    await image.metadata.run(() => giveBack(image, host, packed.length));
    throw error;
  } finally {
    page.pins -= 1;
  }
}

/** Space for `length` bytes, less than a cluster: behind the last ones if it fits or can run on, else in a new cluster. */
async function reserve(image: Qcow2Image, length: number): Promise<number> {
  const { clusterSize, clusterBits } = image.geometry;
  const begun = image.packAt;
  const cluster = begun - (begun % clusterSize);
  const room = begun === 0 ? 0 : cluster + clusterSize - begun;
  const mayShare = begun !== 0 && (await image.refcounts.get(cluster)) < image.refcounts.max;
  let host: number;
  if (mayShare && length <= room) {
    await image.refcounts.retain(cluster, 1);
    host = begun;
  } else {
    const run = await image.refcounts.allocate(1);
    image.checkAllocated(run);
    host = run.offset;
    // The check is made anew: allocating may have committed, and so given the begun cluster up.
    if (mayShare && image.packAt === begun && run.offset === cluster + clusterSize) {
      await image.refcounts.retain(cluster, 1);
      host = begun;
    }
  }
  if (host + length > maxCompressedOffset(clusterBits)) {
    throw new ImageError('no-space', 'Compressed clusters can lie no farther out in a file', {
      file: image.storage.name,
      format: 'qcow2',
      offset: host,
    });
  }
  const next = host + length;
  image.packAt = next % clusterSize === 0 ? 0 : next;
  return host;
}

async function giveBack(image: Qcow2Image, host: number, length: number): Promise<void> {
  const { clusterSize } = image.geometry;
  image.packAt = 0;
  const first = Math.floor(host / clusterSize);
  const last = Math.floor((host + length - 1) / clusterSize);
  await image.refcounts.takeBack({ offset: first * clusterSize, clusters: last - first + 1 });
}
