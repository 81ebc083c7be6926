import { ensure } from '../core/errors.ts';

/** POSIX.1-2008 pax and GNU tar archives: headers of one block before each member's bytes. */
export const TAR_BLOCK = 512;

/** What a member is (POSIX "typeflag", and GNU's additions). */
export const TarType = {
  file: '0',
  oldFile: '\0',
  contiguous: '7',
  paxNext: 'x',
  paxGlobal: 'g',
  longName: 'L',
  longLink: 'K',
  gnuSparse: 'S',
} as const;

/** Links, devices, directories, queues: whatever their size says, no bytes follow them. */
const WITHOUT_BYTES: ReadonlySet<string> = new Set(['1', '2', '3', '4', '5', '6']);

export interface TarHeader {
  /** Name with prefix, as the archive has it. */
  name: string;
  /** Bytes that follow, without the padding to whole blocks. */
  size: number;
  type: string;
  /** GNU's old way with sparse files: blocks with more of the map follow, before the bytes. */
  extended: boolean;
}

/** Of a block with more of a sparse file's map: whether one more follows. */
export function continuesSparseMap(block: Buffer): boolean {
  return block[504] !== 0;
}

const MAGIC_AT = 257;
const CHECKSUM = { at: 148, length: 8 } as const;
/** First byte of a number that is binary, big-endian (GNU "base-256"). */
const BINARY = 0x80;

/** Whether the block is a sound header of the ustar family: an old tar's can't be told from chance. */
export function isTarHeader(block: Buffer): boolean {
  return block.length >= TAR_BLOCK && block.toString('latin1', MAGIC_AT, MAGIC_AT + 5) === 'ustar' && isSound(block);
}

/** Decodes a header; null for a block of zeros, which ends the archive. `corrupt` ImageErrors. */
export function decodeTarHeader(block: Buffer): TarHeader | null {
  if (block.every((byte) => byte === 0)) return null;
  ensure(isTarHeader(block), 'A header of the archive is damaged');
  const type = String.fromCharCode(block[156]);
  const size = decodeNumber(block.subarray(124, 136), 'size of a member');
  const extended = type === TarType.gnuSparse && block[482] !== 0;
  return { name: nameOf(block), size: WITHOUT_BYTES.has(type) ? 0 : size, type, extended };
}

/** The checksum is the sum of all bytes, its own field taken as blanks. */
function isSound(block: Buffer): boolean {
  let sum = CHECKSUM.length * 0x20;
  for (let at = 0; at < TAR_BLOCK; at += 1) {
    if (at < CHECKSUM.at || at >= CHECKSUM.at + CHECKSUM.length) sum += block[at];
  }
  return octal(block.subarray(CHECKSUM.at, CHECKSUM.at + CHECKSUM.length)) === sum;
}

function nameOf(block: Buffer): string {
  const name = text(block.subarray(0, 100));
  // GNU tar ("ustar  ") uses the prefix's place for other things.
  const prefix = block[MAGIC_AT + 5] === 0 ? text(block.subarray(345, 500)) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

/** A NUL-terminated field. */
function text(field: Buffer): string {
  const end = field.indexOf(0);
  return field.toString('utf8', 0, end < 0 ? field.length : end);
}

function decodeNumber(field: Buffer, what: string): number {
  const value = (field[0] & BINARY) === 0 ? octal(field) : binary(field);
  ensure(Number.isSafeInteger(value) && value >= 0, `The ${what} in the archive makes no sense`);
  return value;
}

function octal(field: Buffer): number {
  const digits = /^ *([0-7]+)[ \0]*$/.exec(field.toString('latin1'));
  return digits === null ? Number.NaN : Number.parseInt(digits[1], 8);
}

function binary(field: Buffer): number {
  let value = field[0] & ~BINARY;
  for (const byte of field.subarray(1)) value = value * 256 + byte;
  return value;
}

/** The records of a pax header: `length key=value` lines. What can't be read ends them. */
export function decodePaxRecords(bytes: Buffer): Map<string, string> {
  const records = new Map<string, string>();
  for (let at = 0; at < bytes.length; ) {
    const blank = bytes.indexOf(0x20, at);
    const length = blank < 0 ? Number.NaN : Number(bytes.toString('latin1', at, blank));
    ensure(
      Number.isSafeInteger(length) && length > blank - at && at + length <= bytes.length,
      'A pax header of the archive is damaged',
    );
    const record = bytes.toString('utf8', blank + 1, at + length - 1);
    const equals = record.indexOf('=');
    if (equals > 0) records.set(record.slice(0, equals), record.slice(equals + 1));
    at += length;
  }
  return records;
}
