import { readU64BE, writeU64BE } from '../../core/binary.ts';
import { ensure, ImageError } from '../../core/errors.ts';
import {
  COMPRESSION_TYPES,
  type CompressionType,
  CryptMethod,
  DEFAULT_REFCOUNT_ORDER,
  Incompatible,
  MAX_BACKING_NAME,
  MAX_CLUSTER_BITS,
  MAX_REFCOUNT_ORDER,
  MIN_CLUSTER_BITS,
  QCOW2_MAGIC,
  V2_HEADER_LENGTH,
  V3_MIN_HEADER_LENGTH,
} from './constants.ts';

/**
 * The fixed part of the first cluster (qcow2.txt, "Header"). Offsets and sizes are bytes, except
 * where the name says entries or clusters. Feature words are whole 64-bit sets.
 */
export interface Qcow2Header {
  version: 2 | 3;
  backingOffset: number;
  backingLength: number;
  clusterBits: number;
  /** Guest disk size. */
  size: number;
  /** A value of `CryptMethod`. */
  cryptMethod: number;
  l1Entries: number;
  l1Offset: number;
  refcountTableOffset: number;
  refcountTableClusters: number;
  snapshotCount: number;
  snapshotsOffset: number;
  incompatible: bigint;
  compatible: bigint;
  autoclear: bigint;
  refcountOrder: number;
  headerLength: number;
  compressionType: CompressionType;
  /** Header bytes behind the fields known here, kept for rewriting. */
  extra: Buffer;
}

/** Bytes that `decodeHeader` wants to see; headers are longer only by fields unknown here. */
export const HEADER_FIELDS = 112;

/** Where the fields lie. */
const At = {
  magic: 0,
  version: 4,
  backingOffset: 8,
  backingLength: 16,
  clusterBits: 20,
  size: 24,
  cryptMethod: 32,
  l1Entries: 36,
  l1Offset: 40,
  refcountTableOffset: 48,
  refcountTableClusters: 56,
  snapshotCount: 60,
  snapshotsOffset: 64,
  incompatible: 72,
  compatible: 80,
  autoclear: 88,
  refcountOrder: 96,
  headerLength: 100,
  compressionType: 104,
} as const;
/** Only the first byte at `At.compressionType` is in use; the padding behind it is zero. */
const COMPRESSION_FIELD_END = At.compressionType + 8;

/** Offset of the incompatible features word, for code that flips the dirty or corrupt bit in place. */
export const INCOMPATIBLE_FEATURES_AT = At.incompatible;
/** Offset of the autoclear features word. */
export const AUTOCLEAR_FEATURES_AT = At.autoclear;

export function hasQcow2Magic(head: Buffer): boolean {
  return head.length >= 4 && head.readUInt32BE(At.magic) === QCOW2_MAGIC;
}

/**
 * Decodes the header from the first bytes of the file: the first cluster, or as much of it as there
 * is. Checks what the header alone can tell; whether offsets lie inside the file is for
 * `checkTables`. Unknown incompatible bits are left to the caller, who can name them.
 */
export function decodeHeader(head: Buffer): Qcow2Header {
  ensure(hasQcow2Magic(head), 'Image is not in qcow2 format');
  ensure(head.length >= V2_HEADER_LENGTH, 'qcow2 header too short', { offset: head.length });
  const version = head.readUInt32BE(At.version);
  if (version !== 2 && version !== 3) throw new ImageError('unsupported', `Unsupported qcow2 version ${version}`);
  const header = decodeV2Fields(head, version);
  if (version === 3) decodeV3Fields(head, header);
  checkHeader(header);
  return header;
}

function decodeV2Fields(head: Buffer, version: 2 | 3): Qcow2Header {
  const clusterBits = head.readUInt32BE(At.clusterBits);
  ensure(
    clusterBits >= MIN_CLUSTER_BITS && clusterBits <= MAX_CLUSTER_BITS,
    `Unsupported cluster size: 2^${clusterBits}`,
    { offset: At.clusterBits },
  );
  return {
    version,
    backingOffset: readU64BE(head, At.backingOffset, 'The backing file offset'),
    backingLength: head.readUInt32BE(At.backingLength),
    clusterBits,
    size: readU64BE(head, At.size, 'The disk size'),
    cryptMethod: head.readUInt32BE(At.cryptMethod),
    l1Entries: head.readUInt32BE(At.l1Entries),
    l1Offset: readU64BE(head, At.l1Offset, 'The L1 table offset'),
    refcountTableOffset: readU64BE(head, At.refcountTableOffset, 'The refcount table offset'),
    refcountTableClusters: head.readUInt32BE(At.refcountTableClusters),
    snapshotCount: head.readUInt32BE(At.snapshotCount),
    snapshotsOffset: readU64BE(head, At.snapshotsOffset, 'The snapshot table offset'),
    incompatible: 0n,
    compatible: 0n,
    autoclear: 0n,
    refcountOrder: DEFAULT_REFCOUNT_ORDER,
    headerLength: V2_HEADER_LENGTH,
    compressionType: 'zlib',
    extra: Buffer.alloc(0),
  };
}

function decodeV3Fields(head: Buffer, header: Qcow2Header): void {
  ensure(head.length >= V3_MIN_HEADER_LENGTH, 'qcow2 header too short', { offset: head.length });
  header.incompatible = head.readBigUInt64BE(At.incompatible);
  header.compatible = head.readBigUInt64BE(At.compatible);
  header.autoclear = head.readBigUInt64BE(At.autoclear);
  header.refcountOrder = head.readUInt32BE(At.refcountOrder);
  header.headerLength = head.readUInt32BE(At.headerLength);
  ensure(header.headerLength >= V3_MIN_HEADER_LENGTH, 'qcow2 header too short', { offset: At.headerLength });
  ensure(header.headerLength <= 2 ** header.clusterBits, 'qcow2 header exceeds cluster size', {
    offset: At.headerLength,
  });
  ensure(header.headerLength <= head.length, 'qcow2 header is cut off by the end of the file', {
    offset: At.headerLength,
  });
  if (header.headerLength > At.compressionType) {
    const number = head[At.compressionType];
    const type = COMPRESSION_TYPES[number];
    if (type === undefined) throw new ImageError('unsupported', `qcow2: unknown compression type: ${number}`);
    header.compressionType = type;
  }
  header.extra = Buffer.from(head.subarray(Math.min(COMPRESSION_FIELD_END, header.headerLength), header.headerLength));
}

function checkHeader(header: Qcow2Header): void {
  ensure(header.refcountOrder <= MAX_REFCOUNT_ORDER, 'Reference count entry width too large; may not exceed 64 bits', {
    offset: At.refcountOrder,
  });
  if (header.cryptMethod > CryptMethod.luks) {
    throw new ImageError('unsupported', `Unsupported encryption method ${header.cryptMethod}`);
  }
  const flagged = (header.incompatible & Incompatible.compression) !== 0n;
  ensure(
    flagged === (header.compressionType !== 'zlib'),
    flagged
      ? 'qcow2: Compression type incompatible feature bit must not be set'
      : 'qcow2: Compression type incompatible feature bit must be set',
    { offset: At.compressionType },
  );
  if (header.backingOffset === 0) return;
  ensure(header.backingOffset <= 2 ** header.clusterBits, 'Invalid backing file offset', { offset: At.backingOffset });
  ensure(
    header.backingLength <= MAX_BACKING_NAME && header.backingOffset + header.backingLength <= 2 ** header.clusterBits,
    'Backing file name too long',
    { offset: At.backingLength },
  );
}

/** The header's bytes, `headerLength` of them. Extensions and the backing file's name follow: see `encodeHead`. */
export function encodeHeader(header: Qcow2Header): Buffer {
  const head = Buffer.alloc(header.version === 2 ? V2_HEADER_LENGTH : header.headerLength);
  head.writeUInt32BE(QCOW2_MAGIC, At.magic);
  head.writeUInt32BE(header.version, At.version);
  writeU64BE(head, At.backingOffset, header.backingOffset);
  head.writeUInt32BE(header.backingLength, At.backingLength);
  head.writeUInt32BE(header.clusterBits, At.clusterBits);
  writeU64BE(head, At.size, header.size);
  head.writeUInt32BE(header.cryptMethod, At.cryptMethod);
  head.writeUInt32BE(header.l1Entries, At.l1Entries);
  writeU64BE(head, At.l1Offset, header.l1Offset);
  writeU64BE(head, At.refcountTableOffset, header.refcountTableOffset);
  head.writeUInt32BE(header.refcountTableClusters, At.refcountTableClusters);
  head.writeUInt32BE(header.snapshotCount, At.snapshotCount);
  writeU64BE(head, At.snapshotsOffset, header.snapshotsOffset);
  if (header.version === 2) return head;
  head.writeBigUInt64BE(header.incompatible, At.incompatible);
  head.writeBigUInt64BE(header.compatible, At.compatible);
  head.writeBigUInt64BE(header.autoclear, At.autoclear);
  head.writeUInt32BE(header.refcountOrder, At.refcountOrder);
  head.writeUInt32BE(header.headerLength, At.headerLength);
  if (header.headerLength > At.compressionType) {
    head[At.compressionType] = COMPRESSION_TYPES.indexOf(header.compressionType);
  }
  header.extra.copy(head, header.headerLength - header.extra.length);
  return head;
}
