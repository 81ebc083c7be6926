import type { Qcow2Geometry } from '../../layouts/qcow2/index.ts';
import type { GuestWrite } from '../target.ts';

/** Part of a write that lies under one L2 table. */
export interface Segment {
  l1Index: number;
  /** Guest range, and its bytes. */
  start: number;
  end: number;
  bytes: Buffer;
}

/**
 * Cuts writes into segments, and those into groups that can be written at once: all of one L2 table, no two of them in the same
 * cluster, which must be allocated only once.
 * @param writes ascending, without overlap
 */
export function segmentGroups(
  writes: readonly GuestWrite[],
  { l2Coverage, clusterSize }: Pick<Qcow2Geometry, 'l2Coverage' | 'clusterSize'>,
): Segment[][] {
  const groups: Segment[][] = [];
  for (const { offset, buffer } of writes) {
    for (let start = offset, stop = offset + buffer.length; start < stop; ) {
      const l1Index = Math.floor(start / l2Coverage);
      const end = Math.min(stop, (l1Index + 1) * l2Coverage);
      const segment = { l1Index, start, end, bytes: buffer.subarray(start - offset, end - offset) };
      const group = groups.at(-1);
      const last = group?.at(-1);
      const apart = last === undefined || Math.floor(start / clusterSize) > Math.floor((last.end - 1) / clusterSize);
      if (group !== undefined && last?.l1Index === l1Index && apart) group.push(segment);
      else groups.push([segment]);
      start = end;
    }
  }
  return groups;
}
