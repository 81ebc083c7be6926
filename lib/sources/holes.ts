import { type Extent, pushExtent, sliceExtent } from '../core/extent.ts';
import type { Storage } from '../storage/storage.ts';

/**
 * Whether the file takes noticeably less space than its length: then clusters are allocated that were
 * never written (preallocated metadata). A ninth, or two clusters, of difference means nothing: QEMU draws
 * the line there too, and `map` shows where.
 */
export async function isSparse(storage: Storage, clusterSize: number): Promise<boolean> {
  const used = await storage.allocatedBytes();
  return used !== null && storage.size > Math.max((used * 10) / 9, used + 2 * clusterSize);
}

/** The extents with data that lies in holes of its host told as (hollow) zeros. */
export async function withHoles(extents: readonly Extent[]): Promise<Extent[]> {
  const result: Extent[] = [];
  for (const each of extents) {
    if (each.kind !== 'data' || each.hostOffset < 0) pushExtent(result, each);
    else await splitAtHoles(each, result);
  }
  return result;
}

async function splitAtHoles(data: Extent, into: Extent[]): Promise<void> {
  const storage = data.host as Storage;
  const shift = data.offset - data.hostOffset;
  const end = data.hostOffset + data.length;
  for (let at = data.hostOffset; at < end; ) {
    for (const { offset, length, hole } of await storage.holes(at, end - at)) {
      const part = { ...sliceExtent(data, offset + shift, Math.min(length, end - offset)) };
      // Beyond the end of the file there is no hole: something is missing there.
      if (hole && offset + length <= storage.size) {
        part.kind = 'zero';
        part.hollow = true;
      }
      pushExtent(into, part);
      at = offset + part.length;
    }
  }
}
