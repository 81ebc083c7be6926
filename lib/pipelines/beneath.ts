import { type Extent, extent, sliceExtent } from '../core/extent.ts';
import type { Mapped } from '../sources/extents.ts';
import type { Source } from '../sources/source.ts';

/** An answer ends early rather than hold more extents than this. */
const MAX_EXTENTS = 16 * 1024;

/** A disk of `size` bytes that goes on with zeros where the other one ends; without another one, all of it is zeros. */
export function padded(below: Source | null, size: number): Pick<Source, 'name' | 'size' | 'map' | 'read'> {
  const end = below?.size ?? 0;
  return {
    name: below?.name ?? '',
    size,
    async map(offset, length) {
      if (below === null || offset >= end) return [extent(offset, length, 'zero')];
      return below.map(offset, Math.min(length, end - offset));
    },
    async read(offset, buffer) {
      const there = Math.max(0, Math.min(buffer.length, end - offset));
      if (there > 0) await below?.read(offset, buffer.subarray(0, there));
      buffer.fill(0, there);
    },
  };
}

/**
 * What of `before` shows through a layer, as far as `after` may say something else there: data and zeros. All else, what the layer
 * holds itself and what both disks have in the same place of the same layer, is `unallocated`.
 */
export function changedBeneath(layer: Source, before: Mapped, after: Mapped): Mapped {
  return {
    name: layer.name,
    size: layer.size,
    async map(offset, length) {
      const found: Extent[] = [];
      for (const own of await layer.map(offset, length)) {
        const end = own.offset + own.length;
        if (own.kind !== 'unallocated') found.push(extent(own.offset, own.length, 'unallocated'));
        else if ((await differences(before, after, { at: own.offset, end }, found)) < end) break;
      }
      return joined(found);
    },
  };
}

/** Appends the range's extents; returns where it stopped, as an answer must not grow without bound. */
async function differences(
  before: Mapped,
  after: Mapped,
  { at, end }: { at: number; end: number },
  found: Extent[],
): Promise<number> {
  let now = at;
  while (now < end && found.length < MAX_EXTENTS) {
    const ours = await before.map(now, end - now);
    const theirs = await after.map(now, endOf(ours) - now);
    now = Math.min(endOf(ours), endOf(theirs));
    let index = 0;
    for (const each of ours) {
      for (let from = each.offset; from < Math.min(each.offset + each.length, now); ) {
        while (endOf([theirs[index]]) <= from) index += 1;
        const stop = Math.min(each.offset + each.length, endOf([theirs[index]]), now);
        found.push(compared(sliceExtent(each, from, stop - from), theirs[index]));
        from = stop;
      }
    }
  }
  return now;
}

function compared(ours: Extent, theirs: Extent): Extent {
  const { offset, length, kind, layer } = ours;
  const same = kind === 'data' ? theirs.kind === 'data' && theirs.layer === layer : theirs.kind !== 'data';
  if (same) return extent(offset, length, 'unallocated');
  return kind === 'data' ? ours : extent(offset, length, 'zero');
}

function joined(extents: readonly Extent[]): Extent[] {
  const result: Extent[] = [];
  for (const each of extents) {
    const last = result.at(-1);
    if (last !== undefined && last.kind === each.kind && each.kind !== 'data') last.length += each.length;
    else result.push(each);
  }
  return result;
}

function endOf(extents: readonly Extent[]): number {
  const last = extents[extents.length - 1];
  return last.offset + last.length;
}
