import { alignUp, readU64LE, writeU64LE } from '../../core/binary.ts';
import { ensure, ImageError } from '../../core/errors.ts';
import {
  COMPRESSION_DEFLATE,
  COMPRESSION_NONE,
  DESCRIPTOR_SECTOR,
  DESCRIPTOR_SECTORS,
  DIRECTORY_AT_END,
  ENTRY_BYTES,
  GRAIN_SECTORS,
  SECTOR,
  SPARSE_MAGIC,
  SparseFlag,
  TABLE_ENTRIES,
} from './constants.ts';

/** A hosted sparse extent's header, its first sector. Places and sizes are in sectors. */
export interface SparseHeader {
  version: number;
  flags: number;
  /** Guest sectors. */
  capacity: number;
  grainSectors: number;
  descriptorSector: number;
  descriptorSectors: number;
  /** Grains under one grain table. */
  tableEntries: number;
  redundantDirectory: number;
  /** Null: the footer tells. */
  directory: number | null;
  /** Metadata before the first grain. */
  overhead: number;
  compression: number;
}

/** Where the header's parts lie, in bytes (SparseExtentHeader, packed, little-endian). */
const At = {
  magic: 0,
  version: 4,
  flags: 8,
  capacity: 12,
  grain: 20,
  descriptor: 28,
  descriptorSize: 36,
  tableEntries: 44,
  redundantDirectory: 48,
  directory: 56,
  overhead: 64,
  newlines: 73,
  compression: 77,
} as const;

export const SPARSE_HEADER_BYTES = 79;
/** Line ends as a transfer in text mode would spoil them. */
const NEWLINES = Buffer.from('\n \r\n');
const MAX_VERSION = 3;
/** A grain of 2 GiB is nothing that anyone makes; QEMU draws no line. */
const MAX_GRAIN_SECTORS = 2 ** 22;
/** A compressed grain is in memory as a whole, twice: more than 2 MiB would be for no good. */
const MAX_PACKED_GRAIN_SECTORS = 2 ** 12;
/** QEMU takes no more. */
const MAX_TABLE_ENTRIES = 512;
/** Signed 64 bits of bytes, as QEMU counts. */
const MAX_CAPACITY = Math.floor(Number.MAX_SAFE_INTEGER / SECTOR);

/** Whether a file begins like a hosted sparse extent. */
export function hasSparseMagic(head: Buffer): boolean {
  return head.length >= 4 && head.readUInt32LE(At.magic) === SPARSE_MAGIC;
}

/**
 * Decodes and checks the header in the first sector (or the footer's copy of it). Virtual Disk Format 5.0, "Hosted Sparse
 * Extent Header". `corrupt` where it contradicts itself, `unsupported` for what is not known.
 */
export function decodeSparseHeader(sector: Buffer): SparseHeader {
  ensure(sector.length >= SPARSE_HEADER_BYTES && hasSparseMagic(sector), 'Image not in VMDK format', { offset: 0 });
  const version = sector.readUInt32LE(At.version);
  if (version === 0 || version > MAX_VERSION) {
    throw new ImageError('unsupported', `Unsupported VMDK version ${version}`, { offset: At.version });
  }
  const capacity = sector.readBigUInt64LE(At.capacity);
  ensure(capacity <= MAX_CAPACITY, 'Could not refresh total sector count: File too large', { offset: At.capacity });
  const directory = sector.readBigUInt64LE(At.directory);
  const header: SparseHeader = {
    version,
    flags: sector.readUInt32LE(At.flags),
    capacity: Number(capacity),
    grainSectors: readU64LE(sector, At.grain, 'Grain size'),
    descriptorSector: readU64LE(sector, At.descriptor, 'Descriptor offset'),
    descriptorSectors: readU64LE(sector, At.descriptorSize, 'Descriptor size'),
    tableEntries: sector.readUInt32LE(At.tableEntries),
    redundantDirectory: redundantDirectory(sector),
    directory: directory === DIRECTORY_AT_END ? null : readU64LE(sector, At.directory, 'Grain directory offset'),
    overhead: readU64LE(sector, At.overhead, 'Metadata size'),
    compression: sector.readUInt16LE(At.compression),
  };
  checkHeader(header);
  return header;
}

/** Only meaningful, and only looked at, with the flag: streamOptimized extents have anything there. */
function redundantDirectory(sector: Buffer): number {
  if ((sector.readUInt32LE(At.flags) & SparseFlag.redundantTable) === 0) return 0;
  if (sector.readBigUInt64LE(At.redundantDirectory) === DIRECTORY_AT_END) return 0;
  return readU64LE(sector, At.redundantDirectory, 'Redundant grain directory offset');
}

function checkHeader(header: SparseHeader): void {
  const { flags, compression, tableEntries, grainSectors } = header;
  ensure(tableEntries <= MAX_TABLE_ENTRIES, 'L2 table size too big', { offset: At.tableEntries });
  ensure(tableEntries > 0 && grainSectors > 0 && grainSectors <= MAX_GRAIN_SECTORS, 'L1 entry size is invalid', {
    offset: At.grain,
  });
  if (compression !== COMPRESSION_NONE && compression !== COMPRESSION_DEFLATE) {
    throw new ImageError('unsupported', `Unsupported VMDK compression algorithm ${compression}`, {
      offset: At.compression,
    });
  }
  if ((flags & SparseFlag.compressed) !== 0) {
    if (grainSectors > MAX_PACKED_GRAIN_SECTORS) {
      throw new ImageError('unsupported', `Compressed grains of ${grainSectors} sectors are too large`, {
        offset: At.grain,
      });
    }
    ensure(compression === COMPRESSION_DEFLATE, 'Compressed grains without a compression algorithm', {
      offset: At.compression,
    });
  }
}

export function encodeSparseHeader(header: SparseHeader): Buffer {
  const sector = Buffer.alloc(SECTOR);
  sector.writeUInt32LE(SPARSE_MAGIC, At.magic);
  sector.writeUInt32LE(header.version, At.version);
  sector.writeUInt32LE(header.flags, At.flags);
  writeU64LE(sector, At.capacity, header.capacity);
  writeU64LE(sector, At.grain, header.grainSectors);
  writeU64LE(sector, At.descriptor, header.descriptorSector);
  writeU64LE(sector, At.descriptorSize, header.descriptorSectors);
  sector.writeUInt32LE(header.tableEntries, At.tableEntries);
  writeU64LE(sector, At.redundantDirectory, header.redundantDirectory);
  if (header.directory === null) sector.writeBigUInt64LE(DIRECTORY_AT_END, At.directory);
  else writeU64LE(sector, At.directory, header.directory);
  writeU64LE(sector, At.overhead, header.overhead);
  NEWLINES.copy(sector, At.newlines);
  sector.writeUInt16LE(header.compression, At.compression);
  return sector;
}

export function isCompressed({ flags }: SparseHeader): boolean {
  return (flags & SparseFlag.compressed) !== 0;
}

export function hasZeroGrains({ flags }: SparseHeader): boolean {
  return (flags & SparseFlag.zeroGrain) !== 0;
}

export function hasRedundantTables({ flags, redundantDirectory }: SparseHeader): boolean {
  return (flags & SparseFlag.redundantTable) !== 0 && redundantDirectory > 0;
}

/** Grain tables that a disk of `capacity` sectors needs. */
export function tablesFor({
  capacity,
  grainSectors,
  tableEntries,
}: Pick<SparseHeader, 'capacity' | 'grainSectors' | 'tableEntries'>): number {
  return Math.ceil(capacity / (grainSectors * tableEntries));
}

export interface NewSparseExtent {
  /** Guest bytes; whole sectors. */
  size: number;
  /** Entries may say "zeros". */
  zeroGrains: boolean;
}

/** The header of a new extent, laid out as QEMU does: descriptor, both directories each with its tables, grains. */
export function newSparseHeader({ size, zeroGrains }: NewSparseExtent): SparseHeader & { directory: number } {
  const capacity = size / SECTOR;
  const shape = { capacity, grainSectors: GRAIN_SECTORS, tableEntries: TABLE_ENTRIES };
  const tables = tablesFor(shape);
  const copySectors = directorySectors(tables) + tables * TABLE_SECTORS;
  const redundantDirectory = DESCRIPTOR_SECTOR + DESCRIPTOR_SECTORS;
  const directory = redundantDirectory + copySectors;
  return {
    ...shape,
    version: zeroGrains ? 2 : 1,
    flags: SparseFlag.newlineTest | SparseFlag.redundantTable | (zeroGrains ? SparseFlag.zeroGrain : 0),
    descriptorSector: DESCRIPTOR_SECTOR,
    descriptorSectors: DESCRIPTOR_SECTORS,
    redundantDirectory,
    directory,
    overhead: alignUp(directory + copySectors, GRAIN_SECTORS),
    compression: COMPRESSION_NONE,
  };
}

/** The header of a new stream-optimized extent: its directory follows the grains. */
export function newStreamHeader({ size, zeroGrains }: NewSparseExtent): SparseHeader {
  return {
    version: 3,
    flags:
      SparseFlag.newlineTest | SparseFlag.compressed | SparseFlag.markers | (zeroGrains ? SparseFlag.zeroGrain : 0),
    capacity: size / SECTOR,
    grainSectors: GRAIN_SECTORS,
    tableEntries: TABLE_ENTRIES,
    descriptorSector: DESCRIPTOR_SECTOR,
    descriptorSectors: DESCRIPTOR_SECTORS,
    redundantDirectory: 0,
    directory: null,
    overhead: GRAIN_SECTORS,
    compression: COMPRESSION_DEFLATE,
  };
}

/** Sectors of a grain table. */
export const TABLE_SECTORS = (TABLE_ENTRIES * ENTRY_BYTES) / SECTOR;

/** Sectors of a grain directory of so many entries. */
export function directorySectors(tables: number): number {
  return Math.ceil((tables * ENTRY_BYTES) / SECTOR);
}

/** A directory whose tables follow it, one behind the other. */
export function encodeDirectory(directory: number, tables: number): Buffer {
  const bytes = Buffer.alloc(directorySectors(tables) * SECTOR);
  const first = directory + directorySectors(tables);
  for (let table = 0; table < tables; table += 1) {
    bytes.writeUInt32LE(first + table * TABLE_SECTORS, table * ENTRY_BYTES);
  }
  return bytes;
}
