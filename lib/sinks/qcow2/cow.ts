import { alignDown } from '../../core/binary.ts';
import { inflateRaw, zstdDecompress } from '../../core/codecs.ts';
import { ImageError } from '../../core/errors.ts';
import { readPadded } from '../../storage/storage.ts';
import type { ClusterState } from './cluster.ts';
import type { Qcow2Image } from './image.ts';

/** Whether guest bytes at `offset` that this layer leaves unallocated come from a backing file. */
export function isBacked(image: Qcow2Image, offset: number): boolean {
  if (image.backing === null) return image.tail.backingFile !== null;
  return offset < image.backing.size;
}

/**
 * Reads what a cluster held before it is written, for copy-on-write.
 * @param offset guest offset; the range lies within the cluster
 * @returns the bytes, or null where they are known to be zeros
 */
export async function readOld(
  image: Qcow2Image,
  state: ClusterState,
  offset: number,
  length: number,
): Promise<Buffer | null> {
  const { clusterSize, subclusterSize } = image.geometry;
  const within = offset % clusterSize;
  if (state.compressedLength > 0) {
    return (await readCompressed(image, state)).subarray(within, within + length);
  }
  const bytes = Buffer.allocUnsafe(length);
  let known = true;
  for (let at = 0; at < length; ) {
    const inCluster = within + at;
    const part = Math.min(length - at, alignDown(inCluster, subclusterSize) + subclusterSize - inCluster);
    const bit = 2 ** Math.floor(inCluster / subclusterSize);
    const target = bytes.subarray(at, at + part);
    if ((state.allocated & bit) !== 0) {
      const place = { guest: offset + at, host: state.host + inCluster };
      if (image.cipher !== null) await image.cipher.read(image.data, place, target);
      else await readPadded(image.data, place.host, target);
      known = false;
    } else if ((state.zero & bit) === 0 && isBacked(image, offset + at)) {
      await readBacking(image, offset + at, target);
      known = false;
    } else {
      target.fill(0);
    }
    at += part;
  }
  return known ? null : bytes;
}

async function readBacking(image: Qcow2Image, offset: number, target: Buffer): Promise<void> {
  const { backing } = image;
  if (backing === null) {
    throw new ImageError('refused', 'Parts of clusters cannot be written while the backing file is not open', {
      file: image.storage.name,
      format: 'qcow2',
      offset,
    });
  }
  const there = Math.min(target.length, Math.max(0, backing.size - offset));
  if (there > 0) await backing.read(offset, target.subarray(0, there));
  target.fill(0, there);
}

async function readCompressed(image: Qcow2Image, state: ClusterState): Promise<Buffer> {
  const packed = Buffer.allocUnsafe(state.compressedLength);
  await readPadded(image.data, state.host, packed);
  const unpack = image.header.compressionType === 'zstd' ? zstdDecompress : inflateRaw;
  return unpack(packed, image.geometry.clusterSize);
}
