import { ensure, ImageError } from '../../core/errors.ts';
import { COWD_MAGIC } from './constants.ts';

/** The header of an ESX Server sparse extent. Places and sizes are in sectors. */
export interface CowdHeader {
  /** Guest sectors. */
  capacity: number;
  grainSectors: number;
  directory: number;
  /** Entries of the grain directory. */
  tables: number;
}

/** Where the parts lie, in bytes (COWDisk_Header, little-endian). */
const At = { version: 4, capacity: 12, grain: 16, directory: 20, tables: 24 } as const;

const COWD_HEADER_BYTES = 32;
const COWD_VERSION = 1;
/** A grain table always has as many entries. */
export const COWD_TABLE_ENTRIES = 4096;
const MAX_GRAIN_SECTORS = 2 ** 22;

export function hasCowdMagic(head: Buffer): boolean {
  return head.length >= 4 && head.readUInt32LE(0) === COWD_MAGIC;
}

/** Decodes and checks the header. Virtual Disk Format 5.0, "ESX Server Sparse Extents". */
export function decodeCowdHeader(sector: Buffer): CowdHeader {
  ensure(sector.length >= COWD_HEADER_BYTES && hasCowdMagic(sector), 'Image not in VMDK format', { offset: 0 });
  const version = sector.readUInt32LE(At.version);
  if (version !== COWD_VERSION) {
    throw new ImageError('unsupported', `Unsupported COWD version ${version}`, { offset: At.version });
  }
  const header = {
    capacity: sector.readUInt32LE(At.capacity),
    grainSectors: sector.readUInt32LE(At.grain),
    directory: sector.readUInt32LE(At.directory),
    tables: sector.readUInt32LE(At.tables),
  };
  ensure(header.grainSectors > 0 && header.grainSectors <= MAX_GRAIN_SECTORS, 'L1 entry size is invalid', {
    offset: At.grain,
  });
  return header;
}
