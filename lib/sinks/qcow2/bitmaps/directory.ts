import { ImageError } from '../../../core/errors.ts';
import { tracePoint } from '../../../core/trace.ts';
import {
  Autoclear,
  type BitmapDirectoryEntry,
  bitmapShape,
  decodeBitmapsExtension,
  ExtensionType,
  encodeBitmapDirectory,
  encodeBitmapsExtension,
  encodeHead,
  findExtension,
  type HeaderExtension,
  MAX_BITMAP_BYTES,
} from '../../../layouts/qcow2/index.ts';
import { checkConsistent, loadBitmap, readBitmaps } from '../../../sources/qcow2/bitmaps.ts';
import type { Qcow2Image } from '../image.ts';
import { writeMarked, writeResized } from './contents.ts';
import { Marks } from './marks.ts';
import { BitmapSpace } from './space.ts';

const traceBitmaps = tracePoint('qcow2_bitmaps_store');

/** A change: it writes what is new through `space`, and returns what the directory then says. */
export type BitmapChange = (
  entries: readonly BitmapDirectoryEntry[],
  space: BitmapSpace,
) => Promise<readonly BitmapDirectoryEntry[]>;

/**
 * The persistent bitmaps of an image that is open for writing. What is changed goes to new places, and the header refers
 * to a new directory then; only after that the old places are free. So an image that is killed at any moment has its bitmaps as they
 * were, or as they shall be. Those that record writes are marked in use while writes go on, and get them when the image is closed.
 */
export class Qcow2Bitmaps {
  readonly #image: Qcow2Image;
  /** As the directory says, apart from "in use" of those in `#recording`. */
  #entries: readonly BitmapDirectoryEntry[] | null = null;
  readonly #recording = new Map<string, Marks>();

  constructor(image: Qcow2Image) {
    this.#image = image;
  }

  /** The directory. Bitmaps that a program without knowledge of them has made worthless are none. */
  async entries(): Promise<readonly BitmapDirectoryEntry[]> {
    this.#entries ??= await readBitmaps(this.#image);
    return this.#entries;
  }

  /**
   * Before the image's first change: the bitmaps that record are marked in use on the disk ("Bitmap directory", flags), so that nobody
   * relies on them if this writer does not come to its end. Under the metadata lock.
   * @returns whether the bitmaps are consistent, so that their autoclear bit may stay set
   */
  async startRecording(): Promise<boolean> {
    const { storage, tail } = this.#image;
    try {
      const entries = await this.entries();
      const data = findExtension(tail.extensions, ExtensionType.bitmaps);
      if (data === null || entries.length === 0) return false;
      const recording = entries.filter(({ auto, inUse }) => auto && !inUse);
      if (recording.length === 0) return true;
      for (const { name, granularityBits } of recording) this.#recording.set(name, new Marks(granularityBits));
      await storage.write(decodeBitmapsExtension(data).directoryOffset, encodeBitmapDirectory(this.#onDisk(entries)));
      return true;
    } catch (error) {
      // A directory that lies is no reason not to write: without its autoclear bit nobody looks at it.
      if (!(error instanceof ImageError) || error.kind !== 'corrupt') throw error;
      this.#entries = [];
      this.#recording.clear();
      return false;
    }
  }

  #onDisk(entries: readonly BitmapDirectoryEntry[]): BitmapDirectoryEntry[] {
    return entries.map((entry) => (this.#recording.has(entry.name) ? { ...entry, inUse: true } : entry));
  }

  /** The guest writes, or gives up, this range. */
  mark(offset: number, length: number): void {
    if (length === 0) return;
    for (const marks of this.#recording.values()) marks.add(offset, length);
  }

  /** All is written: the bitmaps that recorded get their marks, and can be relied on again. Under the metadata lock. */
  async finishRecording(): Promise<void> {
    if (this.#recording.size === 0) return;
    const recorded = new Map(this.#recording);
    this.#recording.clear();
    try {
      await this.change(async (entries, space) => {
        const changed: BitmapDirectoryEntry[] = [];
        for (const entry of entries) changed.push(await this.#withMarks(entry, recorded.get(entry.name), space));
        return changed;
      });
    } catch (error) {
      for (const [name, marks] of recorded) this.#recording.set(name, marks);
      throw error;
    }
  }

  async #withMarks(
    entry: BitmapDirectoryEntry,
    marks: Marks | undefined,
    space: BitmapSpace,
  ): Promise<BitmapDirectoryEntry> {
    if (marks === undefined || marks.isEmpty) return entry;
    try {
      const ranges = marks.ranges(this.#image.header.size);
      return { ...entry, ...(await space.attempt(() => writeMarked(this.#image, space, entry, ranges))) };
    } catch (error) {
      // What it said before can't be read: it stays what nobody relies on.
      if (error instanceof ImageError && error.kind === 'corrupt') return { ...entry, inUse: true };
      throw error;
    }
  }

  /** Makes a change, on the disk too. Under the metadata lock. */
  async change(change: BitmapChange): Promise<void> {
    await this.#prepare(change);
    await this.#image.commit();
  }

  /**
   * Before the disk's size changes, in the header that is written next. Bitmaps that are inconsistent can't follow:
   * `checkResize` refuses them before. Under the metadata lock.
   */
  async prepareResize(size: number): Promise<void> {
    if ((await this.entries()).length === 0) return;
    await this.#prepare(async (entries, space) => {
      const resized: BitmapDirectoryEntry[] = [];
      for (const entry of entries) {
        resized.push({ ...entry, ...(await writeResized(this.#image, space, entry, size)) });
      }
      return resized;
    });
  }

  /** Throws where a bitmap could not follow when the disk's size changes. Under the metadata lock. */
  async checkResize(size: number): Promise<void> {
    for (const entry of await this.entries()) {
      checkConsistent(entry);
      await loadBitmap(this.#image, entry);
      const { bits } = bitmapShape(size, entry.granularityBits, this.#image.geometry.clusterSize);
      if (bits <= MAX_BITMAP_BYTES * 8) continue;
      throw new ImageError('unsupported', `Bitmap '${entry.name}' would take too much space`, { format: 'qcow2' });
    }
  }

  async #prepare(change: BitmapChange): Promise<void> {
    const image = this.#image;
    const before = await this.entries();
    const space = new BitmapSpace(image);
    try {
      const after = await change(before, space);
      const extension = await this.#writeDirectory(after, space);
      this.#leaveDirectory(space);
      if (traceBitmaps.enabled)
        traceBitmaps.emit({ file: image.storage.name, before: before.length, after: after.length });
      this.#refer(extension);
      this.#entries = after;
      space.settle();
    } catch (error) {
      await space.giveBack();
      throw error;
    }
  }

  /** The extension that refers to the new directory; null where there are no bitmaps any more. */
  async #writeDirectory(entries: readonly BitmapDirectoryEntry[], space: BitmapSpace): Promise<HeaderExtension | null> {
    if (entries.length === 0) return null;
    const directory = encodeBitmapDirectory(this.#onDisk(entries));
    const place = { count: entries.length, directoryBytes: directory.length, directoryOffset: 0 };
    const extension = () => ({ type: ExtensionType.bitmaps, data: encodeBitmapsExtension(place) });
    const { header, tail, storage } = this.#image;
    if (encodeHead({ ...header }, { ...tail, extensions: this.#extensionsWith(extension()) }) === null) {
      throw new ImageError('no-space', 'The header extensions do not fit into the first cluster', {
        file: storage.name,
        format: 'qcow2',
      });
    }
    place.directoryOffset = await space.writeTable(directory);
    return extension();
  }

  /** A directory that nobody trusts is not freed: what it says of itself may be as wrong. */
  #leaveDirectory(space: BitmapSpace): void {
    const { header, tail } = this.#image;
    const old = findExtension(tail.extensions, ExtensionType.bitmaps);
    if (old === null || (header.autoclear & Autoclear.bitmaps) === 0n) return;
    const { directoryOffset, directoryBytes } = decodeBitmapsExtension(old);
    space.leave(directoryOffset, directoryBytes);
  }

  #extensionsWith(extension: HeaderExtension | null): HeaderExtension[] {
    const { extensions } = this.#image.tail;
    const others = extensions.filter(({ type }) => type !== ExtensionType.bitmaps);
    return extension === null ? others : [...others, extension];
  }

  /** From the next commit on the header says so. */
  #refer(extension: HeaderExtension | null): void {
    const { header, tail, external } = this.#image;
    tail.extensions = this.#extensionsWith(extension);
    // What else is set there belongs to features that this writer does not keep up to date.
    const kept = external ? header.autoclear & Autoclear.rawDataFile : 0n;
    header.autoclear = kept | (extension === null ? 0n : Autoclear.bitmaps);
    this.#image.markHeader();
  }
}
