import { ensure, ImageError } from '../../core/errors.ts';

/** How a chunk is stored: the types of UDIF block tables. */
export const ChunkType = {
  zero: 0x0000_0000,
  raw: 0x0000_0001,
  /** Never written: reads as zeros too. */
  ignore: 0x0000_0002,
  comment: 0x7fff_fffe,
  adc: 0x8000_0004,
  zlib: 0x8000_0005,
  bzip2: 0x8000_0006,
  lzfse: 0x8000_0007,
  /** An xz stream. */
  lzma: 0x8000_0008,
  end: 0xffff_ffff,
} as const;

const SECTOR = 512;
/** Bounds as QEMU sets them: a chunk is held in memory. */
const MAX_CHUNK_BYTES = 64 * 1024 * 1024;
const MAX_CHUNK_SECTORS = MAX_CHUNK_BYTES / SECTOR;

const MISH_MAGIC = 0x6d69_7368;
const MISH_BYTES = 204;
const MISH_FIRST_SECTOR = 8;
const MISH_DATA_OFFSET = 24;
const ENTRY_BYTES = 40;
const ENTRY_SECTOR = 8;
const ENTRY_SECTORS = 16;
const ENTRY_OFFSET = 24;
const ENTRY_LENGTH = 32;

/** Chunks of a disk, ascending by guest offset, as arrays: an image may have a million of them. */
export interface ChunkTable {
  readonly count: number;
  /** One of ChunkType, or a number that nobody knows. */
  readonly types: Uint32Array;
  /** Guest bytes. */
  readonly starts: Float64Array;
  readonly lengths: Float64Array;
  /** Where in the file the stored bytes lie, and how many they are. */
  readonly hosts: Float64Array;
  readonly stored: Float64Array;
  /** The most guest bytes of any chunk that is packed, and the most stored ones. */
  readonly largest: number;
  readonly largestStored: number;
}

/** Whether guest bytes of a chunk of that type are zeros. */
export function isZeroType(type: number): boolean {
  return type === ChunkType.zero || type === ChunkType.ignore;
}

/** Whether a resource is a table of chunks; other kinds are passed over. */
export function isMish(resource: Buffer): boolean {
  return resource.length >= MISH_BYTES + ENTRY_BYTES && resource.readUInt32BE(0) === MISH_MAGIC;
}

/** Collects the chunks of several block tables ("mish"), one a partition. */
export class ChunkCollector {
  readonly #types: number[] = [];
  readonly #starts: number[] = [];
  readonly #lengths: number[] = [];
  readonly #hosts: number[] = [];
  readonly #stored: number[] = [];

  /** Adds those of a block table whose offsets are relative to `dataForkOffset`. Throws a `corrupt` ImageError. */
  add(mish: Buffer, dataForkOffset: number): void {
    const firstSector = wide(mish, MISH_FIRST_SECTOR);
    const base = dataForkOffset + wide(mish, MISH_DATA_OFFSET);
    const count = Math.floor((mish.length - MISH_BYTES) / ENTRY_BYTES);
    for (let index = 0; index < count; index += 1) {
      const at = MISH_BYTES + index * ENTRY_BYTES;
      const type = mish.readUInt32BE(at);
      if (type === ChunkType.comment || type === ChunkType.end) continue;
      const sectors = wide(mish, at + ENTRY_SECTORS);
      const stored = wide(mish, at + ENTRY_LENGTH);
      const bounded = isZeroType(type) || sectors <= MAX_CHUNK_SECTORS;
      const most = `is larger than max (${MAX_CHUNK_SECTORS})`;
      ensure(bounded, `sector count ${sectors} for chunk ${index} ${most}`);
      const fits = stored <= MAX_CHUNK_BYTES;
      ensure(fits, `length ${stored} for chunk ${index} is larger than max (${MAX_CHUNK_BYTES})`);
      const whole = type !== ChunkType.raw || stored >= sectors * SECTOR;
      ensure(whole, 'A raw chunk is shorter than the sectors that it holds');
      const start = (firstSector + wide(mish, at + ENTRY_SECTOR)) * SECTOR;
      const host = base + wide(mish, at + ENTRY_OFFSET);
      const sensible = start + sectors * SECTOR <= Number.MAX_SAFE_INTEGER && host <= Number.MAX_SAFE_INTEGER;
      ensure(sensible, `Chunk ${index} lies past any file's end`);
      if (sectors > 0) this.#push(type, start, sectors * SECTOR, host, stored);
    }
  }

  /** The table of all; a `corrupt` ImageError where two chunks claim the same sector. */
  finish(): ChunkTable {
    const order = this.#order();
    const pick = (values: readonly number[]) => Float64Array.from(order, (index) => values[index]);
    const types = Uint32Array.from(order, (index) => this.#types[index]);
    const [starts, lengths] = [pick(this.#starts), pick(this.#lengths)];
    const stored = pick(this.#stored);
    let [largest, largestStored] = [0, 0];
    for (let index = 0; index < order.length; index += 1) {
      const overlaps = index > 0 && starts[index - 1] + lengths[index - 1] > starts[index];
      if (overlaps) throw new ImageError('corrupt', `Two chunks hold sector ${starts[index] / SECTOR}`);
      if (isZeroType(types[index]) || types[index] === ChunkType.raw) continue;
      largest = Math.max(largest, lengths[index]);
      largestStored = Math.max(largestStored, stored[index]);
    }
    const hosts = pick(this.#hosts);
    return { count: order.length, types, starts, lengths, hosts, stored, largest, largestStored };
  }

  #push(type: number, start: number, length: number, host: number, stored: number): void {
    this.#types.push(type);
    this.#starts.push(start);
    this.#lengths.push(length);
    this.#hosts.push(host);
    this.#stored.push(stored);
  }

  /** Indexes by guest offset: partitions mostly come in order, but nothing says so. */
  #order(): Uint32Array {
    const starts = this.#starts;
    const order = Uint32Array.from(starts.keys());
    return order.sort((left, right) => starts[left] - starts[right]);
  }
}

/** The chunk that holds the guest byte, or where there is none the one before it; -1: all lie behind it. */
export function chunkAt({ starts, count }: ChunkTable, offset: number): number {
  let [low, high] = [0, count];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (starts[middle] <= offset) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** A 64-bit number that is then checked: those past 2^53 are too large for anything, whatever they lose. */
function wide(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) * 2 ** 32 + bytes.readUInt32BE(at + 4);
}
