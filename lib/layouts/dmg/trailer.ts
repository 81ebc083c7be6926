import { readU64BE } from '../../core/binary.ts';
import { ensure, ImageError } from '../../core/errors.ts';

/**
 * The trailer of a UDIF image, "koly": 512 bytes, big-endian, at the end of the file. Apple has published no
 * specification; the field's names are those of hdiutil's output and of libdmg.
 */
export const TRAILER_BYTES = 512;
/** Files may have grown by a few bytes behind the trailer: it is looked for in as many as QEMU looks at. */
export const TRAILER_WINDOW = 515;

const MAGIC = Buffer.from('koly', 'latin1');
const SECTOR = 512;
/** More sectors than bytes can be counted. */
const MAX_SECTORS = Number.MAX_SAFE_INTEGER / SECTOR;

const DATA_FORK_OFFSET = 24;
const RESOURCE_FORK_OFFSET = 40;
const RESOURCE_FORK_LENGTH = 48;
const PLIST_OFFSET = 216;
const PLIST_LENGTH = 224;
const SECTORS = 492;

/** A run of the file's bytes. */
export interface FileRange {
  offset: number;
  length: number;
}

export interface DmgTrailer {
  /** What the offsets of all chunks are relative to. */
  dataForkOffset: number;
  /** Length 0: there is none. */
  resourceFork: FileRange;
  /** Length 0: there is none. */
  plist: FileRange;
  /** Guest bytes. */
  size: number;
}

/** Where in a file of that size the trailer's magic can be: offset and bytes to look at. */
export function trailerWindow(fileSize: number): FileRange {
  // QEMU counts in whole sectors, and takes no notice of what is less than one.
  const whole = Math.ceil(fileSize / SECTOR) * SECTOR;
  ensure(whole >= SECTOR, 'dmg file must be at least 512 bytes long');
  const offset = whole > TRAILER_BYTES + TRAILER_WINDOW - 4 ? whole - TRAILER_BYTES - (TRAILER_WINDOW - 4) : 0;
  return { offset, length: Math.min(whole, TRAILER_WINDOW) };
}

/** Where in the window the trailer begins. */
export function findTrailer(window: Buffer): number {
  const at = window.indexOf(MAGIC);
  if (at < 0) throw new ImageError('corrupt', 'Could not locate UDIF trailer in dmg file');
  return at;
}

/** Decodes the trailer that lies at `start`; what it refers to must lie before it. */
export function decodeTrailer(trailer: Buffer, start: number): DmgTrailer {
  const dataForkOffset = readU64BE(trailer, DATA_FORK_OFFSET, 'The offset of the data fork');
  ensure(dataForkOffset <= start, 'The data fork lies past the trailer', { offset: start + DATA_FORK_OFFSET });
  const sectors = readU64BE(trailer, SECTORS, 'The number of sectors');
  ensure(sectors <= MAX_SECTORS, 'The disk is larger than any file can be', { offset: start + SECTORS });
  return {
    dataForkOffset,
    resourceFork: range(trailer, start, 'resource fork', [RESOURCE_FORK_OFFSET, RESOURCE_FORK_LENGTH]),
    plist: range(trailer, start, 'property list', [PLIST_OFFSET, PLIST_LENGTH]),
    size: sectors * SECTOR,
  };
}

function range(trailer: Buffer, start: number, what: string, [offsetAt, lengthAt]: [number, number]): FileRange {
  const offset = readU64BE(trailer, offsetAt, `The offset of the ${what}`);
  const length = readU64BE(trailer, lengthAt, `The length of the ${what}`);
  ensure(offset + length <= start, `The ${what} reaches past the trailer`, { offset: start + offsetAt });
  return { offset, length };
}
