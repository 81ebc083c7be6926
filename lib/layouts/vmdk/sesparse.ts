import { readU64LE } from '../../core/binary.ts';
import { ensure, ImageError } from '../../core/errors.ts';
import { SECTOR } from './constants.ts';

/**
 * SESparse ("space-efficient sparse"), the sparse extents of ESXi since 5.1 on VMFS6. There is no specification; the
 * fields are those that QEMU and libvmdk know. All are 64 bits, little-endian; places and sizes are in sectors.
 */
export interface SeSparseHeader {
  /** Guest sectors. */
  capacity: number;
  grainSectors: number;
  directory: number;
  directorySectors: number;
  tables: number;
  tablesSectors: number;
  grains: number;
  grainsSectors: number;
  volatileHeader: number;
}

const MAGIC = 0xcafebaben;
const VERSION = 0x2_0000_0001n;
const VOLATILE_MAGIC = 0xcafecafen;
const GRAIN_SECTORS = 8;
const TABLE_SECTORS = 64;

/** Where the fields lie in the constant header, in bytes. */
const At = {
  magic: 0,
  version: 8,
  capacity: 16,
  grain: 24,
  table: 32,
  flags: 40,
  reserved: 48,
  volatileHeader: 80,
  volatileHeaderSize: 88,
  directory: 128,
  directorySize: 136,
  tables: 144,
  tablesSize: 152,
  grains: 192,
  grainsSize: 200,
} as const;
const RESERVED_FIELDS = 4;
/** Where the volatile header says that a journal waits to be replayed. */
const REPLAY_AT = 24;

export const SESPARSE_ENTRY_BYTES = 8;
export const SESPARSE_TABLE_ENTRIES = (TABLE_SECTORS * SECTOR) / SESPARSE_ENTRY_BYTES;

/** Decodes and checks the constant header, the extent's first sector. `corrupt`, or `unsupported` for what is not known. */
export function decodeSeSparseHeader(sector: Buffer): SeSparseHeader {
  const magic = sector.readBigUInt64LE(At.magic);
  ensure(magic === MAGIC, `Bad const header magic: 0x${hex(magic)}`, { offset: At.magic });
  refuseUnknown(sector);
  const field = (at: number, what: string) => readU64LE(sector, at, what);
  const header = {
    capacity: field(At.capacity, 'Capacity'),
    grainSectors: field(At.grain, 'Grain size'),
    directory: field(At.directory, 'Grain directory offset'),
    directorySectors: field(At.directorySize, 'Grain directory size'),
    tables: field(At.tables, 'Grain tables offset'),
    tablesSectors: field(At.tablesSize, 'Grain tables size'),
    grains: field(At.grains, 'Grains offset'),
    grainsSectors: field(At.grainsSize, 'Grains size'),
    volatileHeader: field(At.volatileHeader, 'Volatile header offset'),
  };
  ensure(field(At.volatileHeaderSize, 'Volatile header size') === 1, 'The volatile header is not one sector', {
    offset: At.volatileHeaderSize,
  });
  const limit = Math.floor(Number.MAX_SAFE_INTEGER / SECTOR);
  for (const [name, value] of Object.entries(header)) ensure(value <= limit, `SESparse field '${name}' is too large`);
  return header;
}

function refuseUnknown(sector: Buffer): void {
  const is = (at: number, expected: bigint, what: string) => {
    const value = sector.readBigUInt64LE(at);
    if (value !== expected) throw new ImageError('unsupported', `Unsupported ${what}: 0x${hex(value)}`, { offset: at });
  };
  is(At.version, VERSION, 'version');
  is(At.grain, BigInt(GRAIN_SECTORS), 'grain size');
  is(At.table, BigInt(TABLE_SECTORS), 'grain table size');
  is(At.flags, 0n, 'flags');
  for (let index = 0; index < RESERVED_FIELDS; index += 1) is(At.reserved + index * 8, 0n, 'reserved bits');
}

/** Checks the volatile header: `unsupported` where a journal has to be replayed first. */
export function checkVolatileHeader(sector: Buffer): void {
  const magic = sector.readBigUInt64LE(0);
  ensure(magic === VOLATILE_MAGIC, `Bad volatile header magic: 0x${hex(magic)}`);
  if (sector[REPLAY_AT] === 0) return;
  throw new ImageError('unsupported', 'Image is corrupted, need journal replay');
}

function hex(value: bigint): string {
  return value.toString(16).padStart(16, '0');
}

/** The index of the grain table that a directory entry names; null: there is none. `corrupt` for anything else. */
export function decodeDirectoryEntry(low: number, high: number): number | null {
  if (low === 0 && high === 0) return null;
  ensure(high === 0x1000_0000, 'A grain directory entry is invalid');
  return low;
}

export const SeGrain = { unallocated: -1, zero: -2 } as const;

/**
 * What a grain table entry says: the index of a grain (0 or above), or one of SeGrain. Its top four bits are the kind;
 * the index has its low 12 bits below them, and the rest of it at the bottom.
 */
export function decodeGrainEntry(low: number, high: number): number {
  const kind = high >>> 28;
  if (kind === 0) {
    ensure(low === 0 && high === 0, 'A grain table entry is invalid');
    return SeGrain.unallocated;
  }
  if (kind === 1 || kind === 2) return SeGrain.zero;
  ensure(kind === 3, 'A grain table entry is invalid');
  const lowBits = (high >>> 16) & 0xfff;
  return ((high & 0xffff) * 0x1_0000_0000 + low) * 0x1000 + lowBits;
}
