import { ensure, ImageError } from '../../core/errors.ts';
import {
  ENTRY_BYTES,
  hasZeroGrains,
  isCompressed,
  maxGrainBytes,
  SECTOR,
  type SparseHeader,
  tablesFor,
} from '../../layouts/vmdk/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { Block } from '../block-table.ts';
import type { TableShape } from '../cached-tables.ts';

/** Directories of this many bytes are for disks of a petabyte. */
const MAX_DIRECTORY_BYTES = 128 * 1024 * 1024;

/** Reads a grain directory whole: 4 bytes for each 32 MiB of the disk. */
export async function readDirectory(storage: Storage, sector: number, entries: number): Promise<Buffer> {
  const bytes = entries * ENTRY_BYTES;
  const offset = sector * SECTOR;
  const context = { offset };
  if (bytes > MAX_DIRECTORY_BYTES) throw new ImageError('unsupported', 'L1 size too big', context);
  ensure(offset + bytes <= storage.size, 'The grain directory lies past the end of the file', context);
  const directory = Buffer.allocUnsafeSlow(bytes);
  await storage.read(offset, directory);
  return directory;
}

/** What the entries of a hosted sparse extent, or of a COWD one, mean beyond a sector's number. */
export interface GrainRules {
  /** Guest bytes. */
  size: number;
  grainBytes: number;
  tableEntries: number;
  /** The entry 1 means zeros. */
  zeroGrains: boolean;
  compressed: boolean;
  /** Sectors at the beginning where no grain can lie. */
  overhead: number;
}

export function rulesOf(header: SparseHeader): GrainRules {
  return {
    size: header.capacity * SECTOR,
    grainBytes: header.grainSectors * SECTOR,
    tableEntries: header.tableEntries,
    zeroGrains: hasZeroGrains(header),
    compressed: isCompressed(header),
    overhead: header.overhead,
  };
}

/** The grain directory of an extent, and its tables as pages. */
export class GrainShape implements TableShape {
  readonly blocks: number;
  readonly pageEntries: number;
  readonly entrySize = ENTRY_BYTES;
  readonly rules: GrainRules;
  /** The sectors of the grain tables, 32 bits each; 0: none. */
  readonly directory: Buffer;

  constructor(rules: GrainRules, directory: Buffer) {
    this.rules = rules;
    this.directory = directory;
    this.blocks = Math.ceil(rules.size / rules.grainBytes);
    this.pageEntries = rules.tableEntries;
  }

  pageOffset(page: number): number {
    const at = page * ENTRY_BYTES;
    // A COWD directory may end before the disk does.
    const sector = at < this.directory.length ? this.directory.readUInt32LE(at) : 0;
    return sector === 0 ? -1 : sector * SECTOR;
  }

  decode(bytes: Buffer, index: number): number {
    const sector = bytes.readUInt32LE(index * ENTRY_BYTES);
    if (sector === 0) return Block.unallocated;
    const { zeroGrains, compressed, overhead } = this.rules;
    if (sector === 1 && zeroGrains) return Block.zero;
    ensure(sector >= overhead, "A grain lies in the extent's metadata", { offset: sector * SECTOR });
    return compressed ? Block.packed : sector * SECTOR;
  }

  packed(bytes: Buffer, index: number): { host: number; packedLength: number } {
    const host = bytes.readUInt32LE(index * ENTRY_BYTES) * SECTOR;
    // How long it is stands before it: this is what it may be at the most.
    return { host, packedLength: maxGrainBytes(this.rules.grainBytes) };
  }
}

/** The shape of a hosted sparse extent, its directory read. */
export async function sparseShape(storage: Storage, header: SparseHeader): Promise<GrainShape> {
  const directory = await readDirectory(storage, header.directory ?? 0, tablesFor(header));
  return new GrainShape(rulesOf(header), directory);
}
