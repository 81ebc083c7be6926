import { isPowerOfTwo, readU64LE, writeU64LE } from '../../core/binary.ts';
import { ensure, ImageError } from '../../core/errors.ts';
import {
  ItemId,
  MAX_BLOCK_SIZE,
  MAX_DISK_SIZE,
  MAX_ITEM_LENGTH,
  MAX_METADATA_ITEMS,
  METADATA_TABLE_LENGTH,
  MIN_BLOCK_SIZE,
  SECTOR_SIZES,
} from './constants.ts';
import { GUID_LENGTH, readGuid, writeGuid } from './guid.ts';

/** Where an item's bytes lie: `offset` counts from the start of the metadata region. */
export interface MetadataEntry {
  id: string;
  offset: number;
  length: number;
}

/** What the known items say of the disk (section 2.6.2). Sizes in bytes. */
export interface DiskParameters {
  blockSize: number;
  /** Blocks keep their space: a fixed disk. */
  leaveAllocated: boolean;
  /** A differencing disk: a parent locator tells where the rest is. */
  hasParent: boolean;
  size: number;
  /** The identifier of SCSI's page 83. */
  diskId: string;
  logicalSectorSize: number;
  physicalSectorSize: number;
}

const SIGNATURE = 'metadata';
const COUNT_AT = 10;
const ENTRIES_AT = 32;
const ENTRY_LENGTH = 32;
/** Within an entry. */
const At = { id: 0, offset: 16, length: 20, flags: 24 } as const;

const Flag = { isUser: 1, isVirtualDisk: 2, isRequired: 4 } as const;
/** Of the file parameters. */
const Parameter = { leaveAllocated: 1, hasParent: 2 } as const;

/** How long each item is at the least; and its flags in files made here. */
const ITEMS = {
  fileParameters: { length: 8, flags: Flag.isRequired },
  diskSize: { length: 8, flags: Flag.isRequired | Flag.isVirtualDisk },
  diskId: { length: GUID_LENGTH, flags: Flag.isRequired | Flag.isVirtualDisk },
  logicalSectorSize: { length: 4, flags: Flag.isRequired | Flag.isVirtualDisk },
  physicalSectorSize: { length: 4, flags: Flag.isRequired | Flag.isVirtualDisk },
} as const;
type ItemName = keyof typeof ITEMS;
const ITEM_NAMES = Object.keys(ITEMS) as ItemName[];

const KNOWN: ReadonlySet<string> = new Set(Object.values(ItemId));

/** The bytes of each item that `decodeParameters` wants. */
export type ParameterItems = Readonly<Record<ItemName, Buffer>>;

/** The entries of the metadata table, by the items' ids (section 2.6.1). `unsupported`: a required one is not known. */
export function decodeMetadataTable(table: Buffer): ReadonlyMap<string, MetadataEntry> {
  ensure(table.length >= METADATA_TABLE_LENGTH, 'The metadata table is cut off');
  ensure(table.toString('latin1', 0, 8) === SIGNATURE, 'The metadata table has no signature');
  const count = table.readUInt16LE(COUNT_AT);
  ensure(count <= MAX_METADATA_ITEMS, 'The metadata table has too many entries');
  const entries = new Map<string, MetadataEntry>();
  for (let index = 0; index < count; index += 1) {
    const at = ENTRIES_AT + index * ENTRY_LENGTH;
    const id = readGuid(table, at + At.id);
    const flags = table.readUInt32LE(at + At.flags);
    if (KNOWN.has(id) && (flags & Flag.isUser) === 0) {
      ensure(!entries.has(id), `The metadata item ${id} is there twice`);
      const entry = { id, offset: table.readUInt32LE(at + At.offset), length: table.readUInt32LE(at + At.length) };
      ensure(
        entry.offset >= METADATA_TABLE_LENGTH && entry.length <= MAX_ITEM_LENGTH,
        `The metadata item ${id} lies in the table, or is too long`,
      );
      entries.set(id, entry);
    } else if ((flags & Flag.isRequired) !== 0) {
      throw new ImageError('unsupported', `Unknown required VHDX metadata item ${id}`);
    }
  }
  return entries;
}

/** The entries of the items in `DiskParameters`. `corrupt` if one is missing or too short. */
export function parameterEntries(entries: ReadonlyMap<string, MetadataEntry>): Record<ItemName, MetadataEntry> {
  return eachItem((name) => {
    const entry = entries.get(ItemId[name]);
    ensure(entry !== undefined && entry.length >= ITEMS[name].length, `The metadata item ${ItemId[name]} is missing`);
    return entry;
  });
}

function eachItem<T>(make: (name: ItemName) => T): Record<ItemName, T> {
  return Object.fromEntries(ITEM_NAMES.map((name) => [name, make(name)])) as Record<ItemName, T>;
}

/** Decodes and checks the items. */
export function decodeParameters(items: ParameterItems): DiskParameters {
  const flags = items.fileParameters.readUInt32LE(4);
  const hasParent = (flags & Parameter.hasParent) !== 0;
  const parameters: DiskParameters = {
    blockSize: items.fileParameters.readUInt32LE(0),
    leaveAllocated: !hasParent && (flags & Parameter.leaveAllocated) !== 0,
    hasParent,
    size: readU64LE(items.diskSize, 0, 'The disk size'),
    diskId: readGuid(items.diskId, 0),
    logicalSectorSize: items.logicalSectorSize.readUInt32LE(0),
    physicalSectorSize: items.physicalSectorSize.readUInt32LE(0),
  };
  const { blockSize, size, logicalSectorSize } = parameters;
  ensure(
    blockSize >= MIN_BLOCK_SIZE && blockSize <= MAX_BLOCK_SIZE && isPowerOfTwo(blockSize),
    `Unsupported block size: ${blockSize}`,
  );
  ensure(SECTOR_SIZES.includes(logicalSectorSize), `Unsupported logical sector size: ${logicalSectorSize}`);
  ensure(size <= MAX_DISK_SIZE && size % logicalSectorSize === 0, `Unsupported disk size: ${size}`);
  return parameters;
}

/**
 * The metadata region's table and items, without a parent: `bytes` is the region's start, the rest of it is zeros.
 * The items lie right behind the table.
 */
export function encodeMetadata(parameters: DiskParameters): Buffer {
  const items = encodeItems(parameters);
  const table = Buffer.alloc(METADATA_TABLE_LENGTH);
  table.write(SIGNATURE, 0, 'latin1');
  table.writeUInt16LE(ITEM_NAMES.length, COUNT_AT);
  let offset = METADATA_TABLE_LENGTH;
  ITEM_NAMES.forEach((name, index) => {
    const at = ENTRIES_AT + index * ENTRY_LENGTH;
    writeGuid(table, at + At.id, ItemId[name]);
    table.writeUInt32LE(offset, at + At.offset);
    table.writeUInt32LE(items[name].length, at + At.length);
    table.writeUInt32LE(ITEMS[name].flags, at + At.flags);
    offset += items[name].length;
  });
  return Buffer.concat([table, ...ITEM_NAMES.map((name) => items[name])]);
}

function encodeItems(parameters: DiskParameters): ParameterItems {
  const items = eachItem((name) => Buffer.alloc(ITEMS[name].length));
  items.fileParameters.writeUInt32LE(parameters.blockSize, 0);
  const flags =
    (parameters.leaveAllocated ? Parameter.leaveAllocated : 0) | (parameters.hasParent ? Parameter.hasParent : 0);
  items.fileParameters.writeUInt32LE(flags, 4);
  encodeDiskSize(parameters.size).copy(items.diskSize);
  writeGuid(items.diskId, 0, parameters.diskId);
  items.logicalSectorSize.writeUInt32LE(parameters.logicalSectorSize, 0);
  items.physicalSectorSize.writeUInt32LE(parameters.physicalSectorSize, 0);
  return items;
}

/** The item of the disk's size. */
export function encodeDiskSize(size: number): Buffer {
  const bytes = Buffer.alloc(ITEMS.diskSize.length);
  writeU64LE(bytes, 0, size);
  return bytes;
}
