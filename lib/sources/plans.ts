import { ImageError } from '../core/errors.ts';
import { type Extent, extent, pushExtent } from '../core/extent.ts';
import { allSettled } from '../core/turns.ts';
import { Window } from '../core/window.ts';
import { readPadded, type Storage } from '../storage/storage.ts';
import { Run, type RunKind, type RunSink } from './runs.ts';
import type { Source } from './source.ts';
import type { PackedBlock, Unpacker } from './unpacker.ts';

/** An answer of map() ends soon after it holds that many extents. */
const MAX_EXTENTS = 32 * 1024;

const EXTENT_KINDS = ['unallocated', 'zero', 'data', 'data'] as const;

/** Makes extents of runs. */
export class ExtentCollector implements RunSink {
  extents: Extent[] = [];
  readonly #layer: Source;
  readonly #data: Storage;

  constructor(layer: Source, data: Storage) {
    this.#layer = layer;
    this.#data = data;
  }

  get full(): boolean {
    return this.extents.length >= MAX_EXTENTS;
  }

  run(kind: RunKind, offset: number, length: number, host: number): void {
    const each = extent(offset, length, EXTENT_KINDS[kind]);
    each.layer = this.#layer;
    each.compressed = kind === Run.compressed;
    if (host >= 0) {
      each.host = this.#data;
      each.hostOffset = host;
    }
    pushExtent(this.extents, each);
  }
}

/** Plain reads of one plan in flight; several plans may run at once. */
const MAX_READS = 16;

/** Gathers what a read needs, so that compressed neighbours go together, and then reads it. */
export class ReadPlan implements RunSink {
  readonly #layer: Pick<Source, 'name' | 'format'>;
  readonly #data: Storage;
  readonly #blockSize: number;
  readonly #padEnd: boolean;
  readonly #plain: { host: number; target: Buffer }[] = [];
  readonly #packed: PackedBlock[] = [];
  #offset = 0;
  #buffer: Buffer = NOTHING;

  /** @param padEnd the file may end within its last block, the rest of which reads as zeros */
  constructor(layer: Pick<Source, 'name' | 'format'>, data: Storage, blockSize: number, { padEnd = false } = {}) {
    this.#layer = layer;
    this.#data = data;
    this.#blockSize = blockSize;
    this.#padEnd = padEnd;
  }

  /** Runs that follow are for `buffer`, whose first byte is the guest byte at `offset`. */
  aim(offset: number, buffer: Buffer): void {
    this.#offset = offset;
    this.#buffer = buffer;
  }

  run(kind: RunKind, offset: number, length: number, host: number): void {
    const target = this.#buffer.subarray(offset - this.#offset, offset - this.#offset + length);
    if (kind !== Run.data) {
      target.fill(0);
      return;
    }
    // Where the file is cut off, zeros would be a silent loss of data.
    const missing = host + length - this.#data.size;
    if (missing > 0 && !(this.#padEnd && missing < Math.min(length, this.#blockSize))) {
      const { name: file, format } = this.#layer;
      throw new ImageError('corrupt', 'The file ends before the data that should be there', {
        file,
        format,
        offset: host,
      });
    }
    this.#plain.push({ host, target });
  }

  compressed(offset: number, host: number, packedLength: number): void {
    const skip = Math.max(0, this.#offset - offset);
    const start = Math.max(0, offset - this.#offset);
    // Where the buffer ends within the cluster, subarray does too.
    const target = this.#buffer.subarray(start, offset + this.#blockSize - this.#offset);
    this.#packed.push({ host, packedLength, skip, target });
  }

  /** Reads all that was gathered; nothing is written into the buffers after it has settled. */
  async execute(unpacker: Unpacker | null): Promise<void> {
    const unpacking = this.#packed.length > 0 && unpacker !== null ? unpacker.read(this.#packed) : null;
    if (unpacking === null) return this.#readPlain();
    await allSettled([this.#readPlain(), unpacking]);
  }

  async #readPlain(): Promise<void> {
    const read = this.#padEnd ? readPadded : readWhole;
    if (this.#plain.length === 1) return read(this.#data, this.#plain[0].host, this.#plain[0].target);
    const window = new Window(MAX_READS);
    try {
      for (const { host, target } of this.#plain) await window.enter(() => read(this.#data, host, target));
    } finally {
      await window.settle();
    }
    await window.drain();
  }
}

const NOTHING = Buffer.alloc(0);

function readWhole(storage: Storage, offset: number, buffer: Buffer): Promise<void> {
  return storage.read(offset, buffer);
}
