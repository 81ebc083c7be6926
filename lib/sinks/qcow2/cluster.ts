import { ImageError } from '../../core/errors.ts';
import {
  ALL_SUBCLUSTERS,
  decodeCompressed,
  decodeSubclusters,
  encodeEntry,
  encodeSubclusters,
  entryOffset,
  isCompressed,
  isCopied,
  l2Reserved,
  subclusterMask,
  ZERO_LOW,
} from '../../layouts/qcow2/index.ts';
import type { Qcow2Image } from './image.ts';

/** What an L2 entry says of one guest cluster. */
export interface ClusterState {
  /** Host offset of its cluster, or of its first compressed byte; -1: it has none. */
  host: number;
  /** Bytes that a compressed cluster may take; 0: it is not compressed. */
  compressedLength: number;
  /** Nobody else refers to the host cluster. */
  copied: boolean;
  /** Subclusters that lie in the host cluster. One bit stands for the cluster without extended L2 entries. */
  allocated: number;
  /** Subclusters that read as zeros. */
  zero: number;
}

/** A mask of all subclusters: of the only one without extended L2 entries. */
export function fullMask(image: Qcow2Image): number {
  return image.geometry.extendedL2 ? ALL_SUBCLUSTERS : 1;
}

/** Subclusters that [from, to) touches; offsets are relative to the cluster. */
export function touchedMask(image: Qcow2Image, from: number, to: number): number {
  const { subclusterSize } = image.geometry;
  return subclusterMask(Math.floor(from / subclusterSize), Math.ceil(to / subclusterSize));
}

/** Decodes entry `index` of an L2 table. What can't be right, or would hit metadata when written to, is `corrupt`. */
export function readCluster(image: Qcow2Image, table: Buffer, index: number): ClusterState {
  const { l2EntrySize, clusterBits, extendedL2 } = image.geometry;
  const at = index * l2EntrySize;
  const high = table.readUInt32BE(at);
  const low = table.readUInt32BE(at + 4);
  if (isCompressed(high)) {
    const { offset, length } = decodeCompressed(high, low, clusterBits);
    return { host: offset, compressedLength: length, copied: false, allocated: 0, zero: 0 };
  }
  const copied = isCopied(high);
  const offset = entryOffset(high, low);
  // Offset 0 is a place like any other in an external data file.
  const host = offset !== 0 || (image.external && copied) ? offset : -1;
  if (l2Reserved(high, low)) throw corruptEntry(image, 'has reserved bits set', index);
  if (host > 0) checkHost(image, host, index);
  if (extendedL2) {
    const { allocated, zero } = decodeSubclusters(table, at);
    if ((allocated & zero) !== 0 || (host < 0 && allocated !== 0)) {
      throw corruptEntry(image, 'has an invalid subcluster bitmap', index);
    }
    return { host, compressedLength: 0, copied, allocated, zero };
  }
  const zero = low & ZERO_LOW;
  if (zero === 1 && image.header.version < 3)
    throw corruptEntry(image, 'is a zero cluster in a version 2 image', index);
  return { host, compressedLength: 0, copied, allocated: host >= 0 && zero === 0 ? 1 : 0, zero };
}

function checkHost(image: Qcow2Image, host: number, index: number): void {
  if (host % image.geometry.clusterSize !== 0 || host > Number.MAX_SAFE_INTEGER) {
    throw corruptEntry(image, `points to the unaligned offset 0x${host.toString(16)}`, index);
  }
  if (!image.external && image.isMetadata(host)) {
    throw corruptEntry(image, `points into the image's own metadata at 0x${host.toString(16)}`, index);
  }
}

function corruptEntry(image: Qcow2Image, what: string, index: number): ImageError {
  return new ImageError('corrupt', `An L2 entry ${what} (index 0x${index.toString(16)})`, {
    file: image.storage.name,
    format: 'qcow2',
  });
}

/** Writes an entry that is not compressed; `host` -1 has none. */
export function writeCluster(
  image: Qcow2Image,
  table: Buffer,
  index: number,
  state: Pick<ClusterState, 'host' | 'copied' | 'allocated' | 'zero'>,
): void {
  const { l2EntrySize, extendedL2 } = image.geometry;
  const at = index * l2EntrySize;
  const zero = !extendedL2 && state.zero !== 0;
  encodeEntry(table, at, Math.max(0, state.host), { copied: state.host >= 0 && state.copied, zero });
  if (extendedL2) encodeSubclusters(table, at, state);
}

/** Gives up the host clusters of an entry that is no longer there. */
export function releaseCluster(image: Qcow2Image, state: ClusterState): void {
  if (state.host < 0 || image.external) return;
  if (state.compressedLength === 0) {
    image.refcounts.release(state.host, 1);
    return;
  }
  const { clusterSize } = image.geometry;
  const first = Math.floor(state.host / clusterSize);
  const last = Math.floor((state.host + state.compressedLength - 1) / clusterSize);
  image.refcounts.release(first * clusterSize, last - first + 1);
}
