import { alignUp, readU64BE, writeU64BE } from '../core/binary.ts';
import { ensure, ImageError } from '../core/errors.ts';

/**
 * QEMU's first copy-on-write format, version 1: a header, an L1 table, and L2 tables of clusters. Big-endian. As
 * described in "The QCOW Image Format" (M. McLoughlin) and by what QEMU 7.2 makes and accepts.
 */

/** Offsets and sizes in bytes. */
export interface QcowHeader {
  /** Where the backing file's name lies; 0: none. */
  backingOffset: number;
  backingLength: number;
  /** Guest disk size; a last part of a sector is not shown. */
  size: number;
  clusterBits: number;
  /** Entries of an L2 table, as a power of two. */
  l2Bits: number;
  /** A value of `QcowCrypt`. */
  crypt: number;
  l1Offset: number;
}

export const QcowCrypt = { none: 0, aes: 1 } as const;

const MAGIC = 0x514649fb;
const VERSION = 1;
/** Bytes of the header; the backing file's name follows it. */
export const QCOW_HEADER = 48;
const MIN_CLUSTER_BITS = 9;
const MAX_CLUSTER_BITS = 16;
/** An L2 table has as many bytes as a cluster may have. */
const MIN_L2_BITS = MIN_CLUSTER_BITS - 3;
const MAX_L2_BITS = MAX_CLUSTER_BITS - 3;
/** QEMU's limit: an L1 table of 2 GiB. */
const MAX_L1_ENTRIES = 0x0fff_ffff;
const MAX_BACKING_NAME = 1023;
const SECTOR = 512;
/** Bytes of an entry of either table. */
export const TABLE_ENTRY = 8;

/** Where the fields lie. The time of the last change at 20 and the padding at 34 are not used. */
const At = {
  magic: 0,
  version: 4,
  backingOffset: 8,
  backingLength: 16,
  size: 24,
  clusterBits: 32,
  l2Bits: 33,
  crypt: 36,
  l1Offset: 40,
} as const;

/** Whether the file is one: version 2 has the same magic. */
export function isQcow(head: Buffer): boolean {
  return head.length >= 8 && head.readUInt32BE(At.magic) === MAGIC && head.readUInt32BE(At.version) === VERSION;
}

/**
 * Decodes and checks the header, `QCOW_HEADER` bytes. ImageErrors as QEMU words them. Where the tables lie is for
 * `checkL1`.
 */
export function decodeQcowHeader(head: Buffer): QcowHeader {
  ensure(head.readUInt32BE(At.magic) === MAGIC, 'Image not in qcow format', { offset: At.magic });
  const version = head.readUInt32BE(At.version);
  if (version !== VERSION) throw otherVersion(version);
  ensure(head.readBigUInt64BE(At.size) > 1n, 'Image size is too small (must be at least 2 bytes)', { offset: At.size });
  const clusterBits = head[At.clusterBits];
  ensure(
    clusterBits >= MIN_CLUSTER_BITS && clusterBits <= MAX_CLUSTER_BITS,
    'Cluster size must be between 512 and 64k',
    { offset: At.clusterBits },
  );
  const l2Bits = head[At.l2Bits];
  ensure(l2Bits >= MIN_L2_BITS && l2Bits <= MAX_L2_BITS, 'L2 table size must be between 512 and 64k', {
    offset: At.l2Bits,
  });
  const crypt = head.readUInt32BE(At.crypt);
  ensure(crypt <= QcowCrypt.aes, 'invalid encryption method in qcow header', { offset: At.crypt });
  const limit = BigInt(MAX_L1_ENTRIES) * BigInt(2 ** (clusterBits + l2Bits));
  ensure(head.readBigUInt64BE(At.size) <= limit, 'Image too large', { offset: At.size });
  const backingLength = head.readUInt32BE(At.backingLength);
  const hasBacking = head.readBigUInt64BE(At.backingOffset) !== 0n;
  ensure(!hasBacking || backingLength <= MAX_BACKING_NAME, 'Backing file name too long', { offset: At.backingLength });
  return {
    backingOffset: readU64BE(head, At.backingOffset, 'The backing file offset'),
    backingLength,
    size: readU64BE(head, At.size, 'The disk size'),
    clusterBits,
    l2Bits,
    crypt,
    l1Offset: readU64BE(head, At.l1Offset, 'The L1 table offset'),
  };
}

function otherVersion(version: number): ImageError {
  const hint = version === 2 || version === 3 ? "\nTry the 'qcow2' driver instead." : '';
  return new ImageError('unsupported', `qcow (v1) does not support qcow version ${version}${hint}`);
}

/** Sizes that follow from the header: bytes, unless the name says entries. */
export interface QcowGeometry {
  clusterBits: number;
  clusterSize: number;
  l2Entries: number;
  l1Entries: number;
  /** Whole sectors of the disk: what a guest sees. */
  size: number;
  clusters: number;
}

export function qcowGeometry({ clusterBits, l2Bits, size }: QcowHeader): QcowGeometry {
  const clusterSize = 2 ** clusterBits;
  const l2Entries = 2 ** l2Bits;
  return {
    clusterBits,
    clusterSize,
    l2Entries,
    l1Entries: Math.ceil(size / (clusterSize * l2Entries)),
    size: size - (size % SECTOR),
    clusters: Math.ceil(size / clusterSize),
  };
}

/** Checks that the L1 table lies in a file of `fileSize` bytes, behind the header. */
export function checkL1({ l1Offset }: QcowHeader, { l1Entries }: QcowGeometry, fileSize: number): void {
  ensure(l1Offset >= QCOW_HEADER, 'The L1 table lies in the header', { offset: At.l1Offset });
  ensure(l1Offset + l1Entries * TABLE_ENTRY <= fileSize, 'The L1 table lies past the end of the file', {
    offset: At.l1Offset,
  });
}

/** Without a backing file: clusters of 4 KiB, tables as large. */
const ALONE = { clusterBits: 12, l2Bits: 9 };
/** Over one, clusters are small: a write copies less. */
const OVERLAY = { clusterBits: 9, l2Bits: 12 };

/** The header of a new disk, as QEMU sets it. An `invalid` ImageError for what it would not open again. */
export function newQcowHeader(size: number, backingFile: string | null): QcowHeader {
  if (size <= 0) throw invalid('Image size is too small, cannot be zero length');
  const backingLength = backingFile === null ? 0 : Buffer.byteLength(backingFile);
  if (backingLength > MAX_BACKING_NAME) throw invalid('Backing file name too long');
  const header: QcowHeader = {
    ...(backingFile === null ? ALONE : OVERLAY),
    backingOffset: backingFile === null ? 0 : QCOW_HEADER,
    backingLength,
    size: alignUp(size, SECTOR),
    crypt: QcowCrypt.none,
    l1Offset: alignUp(QCOW_HEADER + backingLength, 8),
  };
  if (qcowGeometry(header).l1Entries > MAX_L1_ENTRIES) throw invalid('Image too large');
  return header;
}

/** First byte behind the L1 table of a new image, which fills whole sectors. */
export function l1End({ l1Offset }: QcowHeader, { l1Entries }: QcowGeometry): number {
  return l1Offset + alignUp(l1Entries * TABLE_ENTRY, SECTOR);
}

/** Header and backing file name of a new image. */
export function encodeQcowHead(header: QcowHeader, backingFile: string | null): Buffer {
  const head = Buffer.alloc(QCOW_HEADER + header.backingLength);
  head.writeUInt32BE(MAGIC, At.magic);
  head.writeUInt32BE(VERSION, At.version);
  writeU64BE(head, At.backingOffset, header.backingOffset);
  head.writeUInt32BE(header.backingLength, At.backingLength);
  writeU64BE(head, At.size, header.size);
  head[At.clusterBits] = header.clusterBits;
  head[At.l2Bits] = header.l2Bits;
  head.writeUInt32BE(header.crypt, At.crypt);
  writeU64BE(head, At.l1Offset, header.l1Offset);
  head.write(backingFile ?? '', QCOW_HEADER, 'utf8');
  return head;
}

/** The backing file's name as it lies in the file: C's strings end at a zero byte. Null where it is empty. */
export function decodeBackingName(bytes: Buffer): string | null {
  const end = bytes.indexOf(0);
  const name = bytes.toString('utf8', 0, end < 0 ? bytes.length : end);
  return name === '' ? null : name;
}

const HALF = 0x1_0000_0000;
/** Top bit of an L2 entry's upper half: the cluster is compressed. */
const COMPRESSED_HIGH = 0x8000_0000;
/** Above it, an offset does not fit a number below 2^53. */
const MAX_OFFSET_HIGH = 0x1f_ffff;

/** Host offset that an entry of 64 bits names, 0 for none; `corrupt` above 2^53. `what` is for messages. */
export function decodeOffset(table: Buffer, at: number, what: string): number {
  const high = table.readUInt32BE(at);
  if (high > MAX_OFFSET_HIGH) {
    throw new ImageError('corrupt', `${what} offset is larger than any file can be`, { offset: at });
  }
  return high * HALF + table.readUInt32BE(at + 4);
}

export function isCompressed(table: Buffer, at: number): boolean {
  return table.readUInt32BE(at) >= COMPRESSED_HIGH;
}

/**
 * A compressed cluster's entry: below the top bit, `clusterBits` bits of length and the host offset, both in bytes.
 */
export function decodeCompressed(
  table: Buffer,
  at: number,
  clusterBits: number,
): { host: number; packedLength: number } {
  const high = (table.readUInt32BE(at) & ~COMPRESSED_HIGH) >>> 0;
  const offsetBits = 31 - clusterBits;
  const hostHigh = high & (2 ** offsetBits - 1);
  ensure(hostHigh <= MAX_OFFSET_HIGH, 'A compressed cluster lies past the end of any file');
  return { host: hostHigh * HALF + table.readUInt32BE(at + 4), packedLength: high >>> offsetBits };
}

export function encodeCompressed(
  table: Buffer,
  at: number,
  { host, packedLength, clusterBits }: { host: number; packedLength: number; clusterBits: number },
): void {
  const offsetBits = 31 - clusterBits;
  const high = COMPRESSED_HIGH + packedLength * 2 ** offsetBits + Math.floor(host / HALF);
  table.writeUInt32BE(high, at);
  table.writeUInt32BE(host % HALF, at + 4);
}

/** Compressed clusters lie below this host offset. */
export function maxCompressedOffset(clusterBits: number): number {
  return Math.min(Number.MAX_SAFE_INTEGER, 2 ** (63 - clusterBits));
}

function invalid(message: string): ImageError {
  return new ImageError('invalid', message, { format: 'qcow', operation: 'create' });
}
