import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import { type Extent, extent } from '../../core/extent.ts';
import {
  COWD_TABLE_ENTRIES,
  type CowdHeader,
  decodeDirectoryEntry,
  decodeGrainEntry,
  SECTOR,
  SESPARSE_ENTRY_BYTES,
  SESPARSE_TABLE_ENTRIES,
  type SeSparseHeader,
  type SparseHeader,
} from '../../layouts/vmdk/index.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { BlockSource } from '../block-source.ts';
import { Block, type BlockTables } from '../block-table.ts';
import { CachedTables, type TableShape } from '../cached-tables.ts';
import { withHoles } from '../holes.ts';
import { GrainShape, readDirectory, rulesOf, sparseShape } from './grain-shape.ts';
import { grainInflater } from './inflate-grain.ts';

/** One extent of an image for reading: offsets are relative to its beginning. The methods are those of Source. */
export interface ExtentReader {
  readonly size: number;
  /** Where its grains lie; absent where it has none. */
  readonly tables?: BlockTables;
  map(offset: number, length: number): Promise<Extent[]>;
  read(offset: number, buffer: Buffer): Promise<void>;
  readMany?(extents: readonly Extent[], buffers: readonly Buffer[]): Promise<void>;
}

interface BlockReaderOptions {
  storage: Storage;
  size: number;
  blockSize: number;
  tables: BlockTables;
  compressed?: boolean;
  writable?: boolean;
}

function blockReader({ compressed = false, ...options }: BlockReaderOptions): BlockSource {
  return new BlockSource({
    ...options,
    format: 'vmdk',
    shortLastBlock: true,
    unpack: compressed ? grainInflater(options.size) : undefined,
    describe: () => ({}),
  });
}

/** A hosted sparse extent. */
export async function sparseReader(storage: Storage, header: SparseHeader): Promise<ExtentReader> {
  const shape = await sparseShape(storage, header);
  return sparseReaderOf({ storage, header, tables: new CachedTables(storage, shape) });
}

/** The same on tables that somebody has already: the writing half of an image. */
export function sparseReaderOf({
  storage,
  header,
  tables,
  writable,
}: {
  storage: Storage;
  header: SparseHeader;
  tables: BlockTables;
  writable?: boolean;
}): BlockSource {
  const { size, grainBytes: blockSize, compressed } = rulesOf(header);
  return blockReader({ storage, size, blockSize, tables, compressed, writable });
}

/** An ESX Server sparse extent. */
export async function cowdReader(storage: Storage, header: CowdHeader): Promise<ExtentReader> {
  const size = header.capacity * SECTOR;
  const blockSize = header.grainSectors * SECTOR;
  const most = Math.ceil(header.capacity / (header.grainSectors * COWD_TABLE_ENTRIES));
  const directory = await readDirectory(storage, header.directory, Math.min(most, header.tables));
  const shape = new GrainShape(
    {
      size,
      grainBytes: blockSize,
      tableEntries: COWD_TABLE_ENTRIES,
      zeroGrains: false,
      compressed: false,
      overhead: 1,
    },
    directory,
  );
  return blockReader({ storage, size, blockSize, tables: new CachedTables(storage, shape) });
}

/** A space-efficient sparse extent. */
export async function seSparseReader(storage: Storage, header: SeSparseHeader): Promise<ExtentReader> {
  const size = header.capacity * SECTOR;
  const blockSize = header.grainSectors * SECTOR;
  const tables = Math.ceil(header.capacity / (header.grainSectors * SESPARSE_TABLE_ENTRIES));
  if (tables * SESPARSE_ENTRY_BYTES > header.directorySectors * SECTOR) {
    throw new ImageError('corrupt', 'The grain directory is too small for the disk');
  }
  // Of 8 bytes an entry: twice as many as there are.
  const directory = await readDirectory(storage, header.directory, tables * 2);
  const shape = seSparseShape(header, directory, Math.ceil(size / blockSize));
  return blockReader({ storage, size, blockSize, tables: new CachedTables(storage, shape) });
}

function seSparseShape(header: SeSparseHeader, directory: Buffer, blocks: number): TableShape {
  const tableBytes = SESPARSE_TABLE_ENTRIES * SESPARSE_ENTRY_BYTES;
  const tablesEnd = (header.tables + header.tablesSectors) * SECTOR;
  const grainsEnd = header.grains + header.grainsSectors;
  return {
    blocks,
    pageEntries: SESPARSE_TABLE_ENTRIES,
    entrySize: SESPARSE_ENTRY_BYTES,
    pageOffset(page) {
      const at = page * SESPARSE_ENTRY_BYTES;
      const index = decodeDirectoryEntry(directory.readUInt32LE(at), directory.readUInt32LE(at + 4));
      if (index === null) return -1;
      const offset = header.tables * SECTOR + index * tableBytes;
      if (offset + tableBytes > tablesEnd)
        throw new ImageError('corrupt', 'A grain table lies outside its area', { offset });
      return offset;
    },
    decode(bytes, index) {
      const at = index * SESPARSE_ENTRY_BYTES;
      const grain = decodeGrainEntry(bytes.readUInt32LE(at), bytes.readUInt32LE(at + 4));
      // SeGrain's numbers are Block's.
      if (grain < 0) return grain === -1 ? Block.unallocated : Block.zero;
      const sector = header.grains + grain * header.grainSectors;
      if (sector >= grainsEnd) throw new ImageError('corrupt', 'A grain lies outside its area');
      return sector * SECTOR;
    },
  };
}

/** A plain extent: guest bytes one behind the other, from `offset` of the file on. */
export class FlatReader implements ExtentReader {
  readonly size: number;
  readonly storage: Storage;
  readonly offset: number;

  constructor(storage: Storage, offset: number, size: number) {
    this.storage = storage;
    this.offset = offset;
    this.size = size;
  }

  async map(offset: number, length: number): Promise<Extent[]> {
    const all = extent(offset, length, 'data');
    all.host = this.storage;
    all.hostOffset = this.offset + offset;
    return withHoles([all]);
  }

  async read(offset: number, buffer: Buffer): Promise<void> {
    const start = this.offset + offset;
    // Its last sector may be cut off; where more is, zeros would be a silent loss of data.
    if (start + buffer.length > alignUp(this.storage.size, SECTOR)) {
      const message = 'The extent ends before the data that should be there';
      throw new ImageError('corrupt', message, { file: this.storage.name, format: 'vmdk', offset: start });
    }
    return readPadded(this.storage, start, buffer);
  }
}

/** An extent without a file. */
export class ZeroReader implements ExtentReader {
  readonly size: number;

  constructor(size: number) {
    this.size = size;
  }

  async map(offset: number, length: number): Promise<Extent[]> {
    return [extent(offset, length, 'zero')];
  }

  async read(_offset: number, buffer: Buffer): Promise<void> {
    buffer.fill(0);
  }
}
