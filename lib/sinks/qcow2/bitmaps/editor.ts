import { alignUp } from '../../../core/binary.ts';
import { ImageError } from '../../../core/errors.ts';
import {
  type BitmapDirectoryEntry,
  bitmapShape,
  MAX_BITMAP_BYTES,
  MAX_BITMAP_DIRECTORY_BYTES,
  MAX_BITMAP_GRANULARITY_BITS,
  MAX_BITMAP_NAME,
  MAX_BITMAPS,
  MIN_BITMAP_GRANULARITY_BITS,
} from '../../../layouts/qcow2/index.ts';
import {
  bitmapInfo,
  checkConsistent,
  findBitmap,
  loadBitmap,
  type MarkedRange,
  markedRanges,
} from '../../../sources/qcow2/bitmaps.ts';
import { inContext } from '../../../sources/qcow2/context.ts';
import type { BitmapInfo, BitmapReader } from '../../../sources/source.ts';
import type { BitmapEditor, NewBitmap } from '../../target.ts';
import type { Qcow2Image } from '../image.ts';
import { leaveBitmap, writeMarked, writeNew } from './contents.ts';
import type { BitmapSpace } from './space.ts';

/** Without a granularity of its own, a bitmap has the cluster size's, within these bounds. */
const MIN_DEFAULT_GRANULARITY = 4096;
const MAX_DEFAULT_GRANULARITY = 65536;
/** An entry's bytes in the directory before its name. */
const ENTRY_BYTES = 24;

/** Changes one entry of the directory. */
type EntryChange = (entry: BitmapDirectoryEntry, space: BitmapSpace) => Promise<BitmapDirectoryEntry | null>;

/** The persistent bitmaps of an image that is open for writing, for `bitmap` and `convert --bitmaps`. */
export class Qcow2BitmapEditor implements BitmapEditor {
  readonly #image: Qcow2Image;
  readonly #beforeEdit: () => void;

  /** @param beforeEdit called before each edit; may throw */
  constructor(image: Qcow2Image, beforeEdit: () => void) {
    this.#image = image;
    this.#beforeEdit = beforeEdit;
  }

  get supported(): boolean {
    return this.#image.header.version >= 3;
  }

  get size(): number {
    return this.#image.header.size;
  }

  list(): Promise<BitmapInfo[]> {
    return this.#locked(async () => (await this.#image.bitmaps.entries()).map(bitmapInfo));
  }

  async *ranges(name: string): AsyncGenerator<MarkedRange> {
    try {
      yield* this.#ranges(name);
    } catch (error) {
      throw inContext(error, this.#image.storage.name);
    }
  }

  async *#ranges(name: string): AsyncGenerator<MarkedRange> {
    const entry = findBitmap(await this.#image.bitmaps.entries(), name);
    checkConsistent(entry);
    yield* markedRanges(this.#image, entry);
  }

  add(name: string, { granularity, disabled = false, marks }: NewBitmap = {}): Promise<void> {
    return this.#edit(async () => {
      const { bitmaps, geometry } = this.#image;
      const fallback = Math.min(MAX_DEFAULT_GRANULARITY, Math.max(MIN_DEFAULT_GRANULARITY, geometry.clusterSize));
      const granularityBits = Math.log2(granularity ?? fallback);
      this.#checkNew(await bitmaps.entries(), name, granularityBits);
      await bitmaps.change(async (entries, space) => {
        const place = await writeNew(this.#image, space, { size: this.size, granularityBits }, marks);
        const flags = { inUse: false, auto: !disabled, extraCompatible: false };
        return [...entries, { ...place, ...flags, granularityBits, name, extra: Buffer.alloc(0) }];
      });
    });
  }

  #checkNew(entries: readonly BitmapDirectoryEntry[], name: string, granularityBits: number): void {
    if (name === '') throw new ImageError('invalid', 'Bitmap name cannot be empty');
    const inBounds = granularityBits >= MIN_BITMAP_GRANULARITY_BITS && granularityBits <= MAX_BITMAP_GRANULARITY_BITS;
    if (!Number.isInteger(granularityBits) || !inBounds) {
      throw new ImageError('invalid', 'Granularity must be power of 2 and at least 512');
    }
    if (entries.some((each) => each.name === name)) {
      throw new ImageError('exists', `Bitmap already exists: ${name}`);
    }
    const reason = this.#whyNot(entries, name, granularityBits);
    if (reason === null) return;
    const file = this.#image.storage.name;
    throw new ImageError('unsupported', `Can't make bitmap '${name}' persistent in '${file}': ${reason}`);
  }

  /** Why the image can't hold the bitmap; null if it can. */
  #whyNot(entries: readonly BitmapDirectoryEntry[], name: string, granularityBits: number): string | null {
    const nameBytes = Buffer.byteLength(name);
    if (!this.supported) return 'Cannot store dirty bitmaps in qcow2 v2 files';
    if (this.size === 0) return 'The disk is empty';
    if (nameBytes > MAX_BITMAP_NAME) return `Name length exceeds maximum (${MAX_BITMAP_NAME} characters)`;
    const { bits } = bitmapShape(this.size, granularityBits, this.#image.geometry.clusterSize);
    if (bits > MAX_BITMAP_BYTES * 8) {
      return 'Too much space will be occupied by the bitmap. Use larger granularity';
    }
    if (entries.length >= MAX_BITMAPS) return 'Maximum number of persistent bitmaps is already reached';
    const taken = entries.reduce(
      (sum, entry) => sum + entryBytes(Buffer.byteLength(entry.name) + entry.extra.length),
      0,
    );
    return taken + entryBytes(nameBytes) > MAX_BITMAP_DIRECTORY_BYTES
      ? 'Not enough space in the bitmap directory'
      : null;
  }

  remove(name: string): Promise<void> {
    return this.#editEntry(name, async (entry, space) => {
      await this.#leave(entry, space);
      return null;
    });
  }

  clear(name: string): Promise<void> {
    return this.#editConsistent(name, async (entry, space) => {
      await this.#leave(entry, space);
      return { ...entry, ...(await writeNew(this.#image, space, { ...entry, size: this.size })) };
    });
  }

  /** What can't be read any more is not freed: `check` finds what has leaked. */
  async #leave(entry: BitmapDirectoryEntry, space: BitmapSpace): Promise<void> {
    try {
      await space.attempt(async () => {
        const { table } = await loadBitmap(this.#image, entry);
        await leaveBitmap(this.#image, space, entry, table);
      });
    } catch (error) {
      if (!(error instanceof ImageError) || error.kind === 'io') throw error;
    }
  }

  enable(name: string): Promise<void> {
    return this.#editConsistent(name, async (entry) => ({ ...entry, auto: true }));
  }

  disable(name: string): Promise<void> {
    return this.#editConsistent(name, async (entry) => ({ ...entry, auto: false }));
  }

  merge(name: string, source: string, from?: BitmapReader): Promise<void> {
    return this.#editConsistent(name, async (entry, space) => {
      const reader = from ?? this;
      const found = (await (from?.list() ?? this.#infos())).find((each) => each.name === source);
      if (found === undefined) throw new ImageError('missing', `Dirty bitmap '${source}' not found`);
      if (reader.size !== this.size && !found.inconsistent) {
        throw new ImageError(
          'invalid',
          `Bitmaps are of different sizes (destination size is ${this.size}, source size is ${reader.size}) ` +
            "and can't be merged",
        );
      }
      const ranges = from === undefined ? this.#ranges(source) : from.ranges(source);
      return { ...entry, ...(await writeMarked(this.#image, space, entry, ranges)) };
    });
  }

  async #infos(): Promise<BitmapInfo[]> {
    return (await this.#image.bitmaps.entries()).map(bitmapInfo);
  }

  #editConsistent(name: string, change: EntryChange): Promise<void> {
    return this.#editEntry(name, async (entry, space) => {
      checkConsistent(entry);
      return change(entry, space);
    });
  }

  #editEntry(name: string, change: EntryChange): Promise<void> {
    return this.#edit(async () => {
      const { bitmaps } = this.#image;
      findBitmap(await bitmaps.entries(), name);
      await bitmaps.change(async (entries, space) => {
        const at = entries.findIndex((each) => each.name === name);
        const changed = await change(entries[at], space);
        return changed === null ? entries.toSpliced(at, 1) : entries.with(at, changed);
      });
    });
  }

  #edit(work: () => Promise<void>): Promise<void> {
    this.#beforeEdit();
    return this.#locked(work);
  }

  async #locked<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await this.#image.metadata.run(work);
    } catch (error) {
      throw inContext(error, this.#image.storage.name);
    }
  }
}

function entryBytes(rest: number): number {
  return alignUp(ENTRY_BYTES + rest, 8);
}
