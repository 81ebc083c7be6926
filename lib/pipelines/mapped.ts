import { alignUp } from '../core/binary.ts';
import { type Extent, extent, sliceExtent } from '../core/extent.ts';
import type { Mapped } from '../sources/extents.ts';
import type { Source } from '../sources/source.ts';
import { shifter } from '../transforms/shift.ts';

/** Guest disks end at sectors: a raw file of 1000 bytes is a disk of 1024. */
export const SECTOR = 512;

/** The disk's size in whole sectors. */
export function paddedSize(size: number): number {
  return alignUp(size, SECTOR);
}

/** Disks one after the other, each filled up with zeros to whole sectors. */
export function concatenate(sources: readonly Mapped[]): Mapped {
  const parts: { start: number; source: Mapped; shift: (from: Extent) => Extent }[] = [];
  let size = 0;
  for (const source of sources) {
    parts.push({ start: size, source, shift: shifter(size) });
    size += paddedSize(source.size);
  }
  return {
    name: sources[0].name,
    size,
    async map(offset, length) {
      const { start, source, shift } = parts.findLast((each) => each.start <= offset) as (typeof parts)[number];
      const inside = Math.min(source.size - (offset - start), length);
      if (inside > 0) return (await source.map(offset - start, inside)).map(shift);
      return [extent(offset, Math.min(length, start + paddedSize(source.size) - offset), 'zero')];
    },
  };
}

/** The range [start, start + length) of a disk, as a disk of its own. */
export function windowOf(source: Mapped, start: number, length: number): Mapped {
  const shift = shifter(-start);
  return {
    name: source.name,
    size: length,
    async map(offset, bytes) {
      return (await source.map(offset + start, bytes)).map(shift);
    },
  };
}

/**
 * What a new overlay must hold to say the same as `top` over its backing file: the top layer alone as far as
 * the new image's backing file reaches; beyond it, where that says nothing, the whole chain.
 */
export function aboveBacking(top: Source, chain: Source, backingSize: number): Mapped {
  return {
    name: top.name,
    size: top.size,
    async map(offset, length) {
      if (offset < backingSize) return top.map(offset, Math.min(length, backingSize - offset));
      const extents = await chain.map(offset, length);
      return extents.map((each): Extent => (each.kind === 'unallocated' ? { ...each, kind: 'zero' } : each));
    },
  };
}

/** The extents of a list that lie in [start, end), moved so that `start` becomes 0. */
export function clip(extents: Iterable<Extent>, start: number, end: number, shift: (from: Extent) => Extent): Extent[] {
  const kept: Extent[] = [];
  for (const each of extents) {
    const from = Math.max(start, each.offset);
    const stop = Math.min(end, each.offset + each.length);
    if (stop > from) kept.push(shift(sliceExtent(each, from, stop - from)));
  }
  return kept;
}
