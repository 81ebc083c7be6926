import { ImageError } from '../core/errors.ts';
import { type Extent, extent, pushExtent } from '../core/extent.ts';
import { allSettled } from '../core/turns.ts';
import { Window } from '../core/window.ts';
import { readPadded, type Storage } from '../storage/storage.ts';
import type { ClusterCipher } from './encryption/cluster-cipher.ts';
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
  readonly #data: Storage | null;

  /** @param data where the bytes lie plain; null: they don't */
  constructor(layer: Source, data: Storage | null) {
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
    if (host >= 0 && this.#data !== null) {
      each.host = this.#data;
      each.hostOffset = host;
    }
    pushExtent(this.extents, each);
  }
}

/** Plain reads of one plan in flight; several plans may run at once. */
const MAX_READS = 16;

export interface ReadPlanOptions {
  /** The file may end within its last block, the rest of which reads as zeros. */
  padEnd?: boolean;
  /** Plain blocks are encrypted. */
  cipher?: ClusterCipher | null;
}

/** Guest bytes that lie in the file, and where they are wanted. */
interface PlainRead {
  guest: number;
  host: number;
  target: Buffer;
}

/** Gathers what a read needs, so that compressed neighbours go together, and then reads it. */
export class ReadPlan implements RunSink {
  readonly #layer: Pick<Source, 'name' | 'format'>;
  readonly #data: Storage;
  readonly #blockSize: number;
  readonly #padEnd: boolean;
  readonly #cipher: ClusterCipher | null;
  readonly #plain: PlainRead[] = [];
  readonly #packed: PackedBlock[] = [];
  #offset = 0;
  #buffer: Buffer = NOTHING;

  constructor(
    layer: Pick<Source, 'name' | 'format'>,
    data: Storage,
    blockSize: number,
    { padEnd = false, cipher = null }: ReadPlanOptions = {},
  ) {
    this.#layer = layer;
    this.#data = data;
    this.#blockSize = blockSize;
    this.#padEnd = padEnd;
    this.#cipher = cipher;
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
    this.#plain.push({ guest: offset, host, target });
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
    if (this.#plain.length === 1) return this.#read(this.#plain[0]);
    const window = new Window(MAX_READS);
    try {
      for (const each of this.#plain) await window.enter(() => this.#read(each));
    } finally {
      await window.settle();
    }
    await window.drain();
  }

  #read(plain: PlainRead): Promise<void> {
    const { host, target } = plain;
    if (this.#cipher !== null) return this.#cipher.read(this.#data, plain, target);
    return this.#padEnd ? readPadded(this.#data, host, target) : this.#data.read(host, target);
  }
}

const NOTHING = Buffer.alloc(0);
