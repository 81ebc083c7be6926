import { readU64LE, writeU64LE } from '../../core/binary.ts';
import { ensure } from '../../core/errors.ts';

/**
 * The header of a Parallels expandable image (QEMU's docs/interop/parallels.txt, "Header"): 64 bytes, little-endian,
 * with the BAT right behind it.
 */
export interface ParallelsHeader {
  /**
   * Magic `WithouFreSpacExt`: BAT entries count clusters, disks may exceed 2 TiB. Else `WithoutFreeSpace`: they count
   * sectors.
   */
  extended: boolean;
  heads: number;
  cylinders: number;
  /** Sectors of a cluster. */
  tracks: number;
  /** Entries of the BAT. */
  entries: number;
  /** Sectors of the disk. */
  sectors: number;
  /** One of `InUse`; other values mean nothing. */
  inUse: number;
  /** First sector of the data area; 0: right behind the BAT. */
  dataSector: number;
  /** Bits of `Flag`. */
  flags: number;
  /** First sector of the Format Extension; 0: none. */
  extensionSector: number;
}

/** Values of `in_use`. */
export const InUse = {
  /** Closed by software that knows no Format Extension. */
  no: 0,
  /** Open for writing, or left so by a crash. */
  yes: 0x746f_6e59,
} as const;

export const Flag = {
  /** The disk is to be taken for empty. QEMU reads its clusters all the same. */
  empty: 1,
} as const;

const MAGIC = 'WithoutFreeSpace';
const EXTENDED_MAGIC = 'WithouFreSpacExt';
const VERSION = 2;
export const SECTOR = 512;
export const HEADER_BYTES = 64;
/** QEMU counts bytes of a cluster in 31 bits, with room for a sector's header. */
export const MAX_TRACKS = Math.floor((2 ** 31 - 1) / 513);
/** The BAT must be shorter than 2 GiB. */
export const MAX_ENTRIES = Math.floor((2 ** 31 - 1) / 4);

const At = {
  magic: 0,
  version: 16,
  heads: 20,
  cylinders: 24,
  tracks: 28,
  entries: 32,
  sectors: 36,
  inUse: 44,
  dataSector: 48,
  flags: 52,
  extensionSector: 56,
} as const;

/** Whether a file of which `head` is the first bytes is a Parallels image of the version known here. */
export function hasParallelsMagic(head: Buffer): boolean {
  if (head.length < HEADER_BYTES) return false;
  const magic = head.toString('latin1', At.magic, At.version);
  return (magic === MAGIC || magic === EXTENDED_MAGIC) && head.readUInt32LE(At.version) === VERSION;
}

/** Decodes and checks the first `HEADER_BYTES` of a file (zeros where it is shorter), in QEMU's words and order. */
export function decodeParallelsHeader(head: Buffer): ParallelsHeader {
  ensure(hasParallelsMagic(head), 'Image not in Parallels format', { offset: At.magic });
  const extended = head.toString('latin1', At.magic, At.version) === EXTENDED_MAGIC;
  const tracks = head.readUInt32LE(At.tracks);
  ensure(tracks > 0, 'Invalid image: Zero sectors per track', { offset: At.tracks });
  ensure(tracks <= MAX_TRACKS, 'Invalid image: Too big cluster', { offset: At.tracks });
  const entries = head.readUInt32LE(At.entries);
  ensure(entries <= MAX_ENTRIES, 'Catalog too large', { offset: At.entries });
  // Old images have 32 bits here, and whatever behind them.
  const sectors = extended ? readU64LE(head, At.sectors, 'The disk size') : head.readUInt32LE(At.sectors);
  ensure(sectors * SECTOR <= Number.MAX_SAFE_INTEGER, 'The disk size is larger than any disk can be', {
    offset: At.sectors,
  });
  return {
    extended,
    heads: head.readUInt32LE(At.heads),
    cylinders: head.readUInt32LE(At.cylinders),
    tracks,
    entries,
    sectors,
    inUse: head.readUInt32LE(At.inUse),
    dataSector: head.readUInt32LE(At.dataSector),
    flags: head.readUInt32LE(At.flags),
    extensionSector: readU64LE(head, At.extensionSector, 'The offset of the Format Extension'),
  };
}

/** The header's bytes. */
export function encodeParallelsHeader(header: ParallelsHeader): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES);
  bytes.write(header.extended ? EXTENDED_MAGIC : MAGIC, At.magic, 'latin1');
  bytes.writeUInt32LE(VERSION, At.version);
  bytes.writeUInt32LE(header.heads, At.heads);
  bytes.writeUInt32LE(header.cylinders, At.cylinders);
  bytes.writeUInt32LE(header.tracks, At.tracks);
  bytes.writeUInt32LE(header.entries, At.entries);
  writeU64LE(bytes, At.sectors, header.sectors);
  bytes.writeUInt32LE(header.inUse, At.inUse);
  bytes.writeUInt32LE(header.dataSector, At.dataSector);
  bytes.writeUInt32LE(header.flags, At.flags);
  writeU64LE(bytes, At.extensionSector, header.extensionSector);
  return bytes;
}
