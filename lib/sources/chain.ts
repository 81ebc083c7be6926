import { ImageError } from '../core/errors.ts';
import { type Extent, pushExtent, sliceExtent } from '../core/extent.ts';
import { tracePoint } from '../core/trace.ts';
import type { Source } from './source.ts';

/**
 * Holes of a layer that lie closer than this are looked up in the layer below as one range: fewer
 * questions, at the price of extents that the upper layer hides.
 */
const JOIN_GAP = 16 * 1024 * 1024;
/** An answer ends early rather than hold more extents than this. */
const MAX_EXTENTS = 64 * 1024;

const traceMap = tracePoint('chain_map');

/**
 * All layers of a backing chain as one source; `layers[0]` is the top. Size, format and description
 * are the top's. What no layer holds is `unallocated`, with the depth of the lowest layer that reaches
 * so far: a layer behind a shorter backing file is alone, as `qemu-img map` has it too.
 */
export function joinLayers(layers: readonly Source[]): Source {
  if (layers.length === 0) throw new ImageError('invalid', 'A backing chain needs an image');
  return layers.length === 1 ? layers[0] : new ChainSource(layers);
}

/** A run of guest bytes that the layers so far leave open. */
interface Hole {
  offset: number;
  end: number;
}

class ChainSource implements Source {
  readonly #layers: readonly Source[];
  readonly #top: Source;
  readonly openSnapshot: Source['openSnapshot'];

  constructor(layers: readonly Source[]) {
    this.#layers = layers;
    this.#top = layers[0];
    const open = this.#top.openSnapshot?.bind(this.#top);
    if (open !== undefined) {
      this.openSnapshot = async (selector) => joinLayers([await open(selector), ...layers.slice(1)]);
    }
  }

  get name() {
    return this.#top.name;
  }
  get format() {
    return this.#top.format;
  }
  get size() {
    return this.#top.size;
  }
  get storage() {
    return this.#top.storage;
  }
  get backing() {
    return this.#top.backing;
  }
  get granularity() {
    return this.#top.granularity;
  }

  describe() {
    return this.#top.describe();
  }

  /** The layers belong to whoever joined them. */
  async close(): Promise<void> {}

  async map(offset: number, length: number): Promise<Extent[]> {
    // The top decides how far this answer reaches; each lower layer is asked once or a few times for
    // all that is still open, so the number of promises does not follow the number of extents.
    let found = await this.#top.map(offset, length);
    let bound = endOf(found);
    for (let depth = 1; depth < this.#layers.length; depth += 1) {
      const holes = holesOf(found, depth - 1, this.#layers[depth].size);
      if (holes.length === 0) break;
      const below = await this.#lookUp(depth, holes);
      bound = Math.min(bound, below.end);
      found = overlay(found, below.extents, bound, depth - 1);
    }
    const result: Extent[] = [];
    for (const each of found) pushExtent(result, each);
    if (traceMap.enabled) traceMap.emit({ name: this.name, offset, end: bound, extents: result.length });
    return result;
  }

  /** The layer's extents over the holes, which may have gaps between them; complete up to `end`. */
  async #lookUp(depth: number, holes: Hole[]): Promise<{ extents: Extent[]; end: number }> {
    const layer = this.#layers[depth];
    const extents: Extent[] = [];
    for (const range of joined(holes)) {
      for (let at = range.offset; at < range.end; ) {
        if (extents.length >= MAX_EXTENTS) return { extents, end: at };
        for (const each of await layer.map(at, range.end - at)) {
          each.depth = depth;
          extents.push(each);
        }
        at = endOf(extents);
      }
    }
    return { extents, end: Number.POSITIVE_INFINITY };
  }

  async read(offset: number, buffer: Buffer): Promise<void> {
    const end = offset + buffer.length;
    const tasks: Promise<void>[] = [];
    for (let at = offset; at < end; ) {
      for (const { kind, layer, offset: from, length } of await this.map(at, end - at)) {
        const part = buffer.subarray(from - offset, from - offset + length);
        if (kind === 'data' && layer !== null) tasks.push(layer.read(from, part));
        else part.fill(0);
        at = from + length;
      }
    }
    await Promise.all(tasks);
  }

  async readMany(extents: readonly Extent[], buffers: readonly Buffer[]): Promise<void> {
    const groups = new Map<Source, { extents: Extent[]; buffers: Buffer[] }>();
    extents.forEach((each, index) => {
      const layer = each.layer as Source | null;
      if (each.kind !== 'data' || layer === null) {
        buffers[index].fill(0);
        return;
      }
      const group = groups.get(layer) ?? { extents: [], buffers: [] };
      groups.set(layer, group);
      group.extents.push(each);
      group.buffers.push(buffers[index]);
    });
    await Promise.all(Array.from(groups, ([layer, group]) => readGroup(layer, group.extents, group.buffers)));
  }
}

async function readGroup(layer: Source, extents: Extent[], buffers: Buffer[]): Promise<void> {
  if (layer.readMany !== undefined) return layer.readMany(extents, buffers);
  await Promise.all(extents.map((each, index) => layer.read(each.offset, buffers[index])));
}

function endOf(extents: readonly Extent[]): number {
  const last = extents[extents.length - 1];
  return last.offset + last.length;
}

/** What the layer at `depth` leaves open, as far as the layer below, of `size` bytes, reaches. */
function holesOf(extents: readonly Extent[], depth: number, size: number): Hole[] {
  const holes: Hole[] = [];
  for (const each of extents) {
    if (each.kind !== 'unallocated' || each.depth !== depth || each.offset >= size) continue;
    holes.push({ offset: each.offset, end: Math.min(each.offset + each.length, size) });
  }
  return holes;
}

function joined(holes: readonly Hole[]): Hole[] {
  const ranges: Hole[] = [];
  for (const { offset, end } of holes) {
    const last = ranges[ranges.length - 1];
    if (last !== undefined && offset - last.end <= JOIN_GAP) last.end = end;
    else ranges.push({ offset, end });
  }
  return ranges;
}

/**
 * Fills the unallocated extents of `upper` that belong to `depth` from `lower`, up to `bound`. Where `lower` ends (the
 * layer is shorter) the hole stays with the upper layer.
 */
function overlay(upper: readonly Extent[], lower: readonly Extent[], bound: number, depth: number): Extent[] {
  const result: Extent[] = [];
  let index = 0;
  for (const each of upper) {
    if (each.offset >= bound) break;
    const end = Math.min(each.offset + each.length, bound);
    if (each.kind !== 'unallocated' || each.depth !== depth) {
      result.push(sliceExtent(each, each.offset, end - each.offset));
      continue;
    }
    let at = each.offset;
    while (index < lower.length && lower[index].offset + lower[index].length <= at) index += 1;
    // A lower extent may span several holes, so the cursor only moves past what is used up.
    for (let next = index; next < lower.length && at < end && lower[next].offset < end; next += 1) {
      const stop = Math.min(end, lower[next].offset + lower[next].length);
      result.push(partOf(lower[next], at, stop - at));
      at = stop;
    }
    if (at < end) result.push(partOf(each, at, end - at));
  }
  return result;
}

/** `sliceExtent`, but always a fresh object: coalescing grows the extents of a result in place. */
function partOf(from: Extent, offset: number, length: number): Extent {
  const part = sliceExtent(from, offset, length);
  return part === from ? { ...from } : part;
}
