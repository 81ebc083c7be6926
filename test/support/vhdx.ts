/**
 * Makes VHDX files that no tool here makes: large sectors, differencing disks, logs that were never replayed. Written
 * after [MS-VHDX], without the library's own encoders, so that both can be held against each other.
 */

const KIB = 1024;
const MIB = 1024 * KIB;
const SECTOR = 4 * KIB;

/** Where the parts lie: another order than the library's and QEMU's. */
export const VHDX_PLACES = { log: MIB, metadata: 2 * MIB, bat: 3 * MIB, blocks: 4 * MIB } as const;
export const LOG_LENGTH = MIB;

export interface VhdxBlock {
  /** As in the BAT: 0 not present, 1 undefined, 2 zero, 3 unmapped, 6 fully, 7 partially present. */
  state: number;
  /** The block's bytes, for states 6 and 7. */
  bytes?: Buffer;
  /** Which sectors are there, for state 7. */
  sectors?: readonly boolean[];
}

export interface VhdxParent {
  linkage: string;
  paths: Readonly<Record<string, string>>;
}

export interface VhdxLogEntry {
  /** Where in the log, and where the tail is; default: itself. */
  place: number;
  tail?: number;
  sequence: bigint;
  guid?: string;
  updates: readonly ({ offset: number; bytes: Buffer } | { offset: number; zeros: number })[];
  flushedSize?: number;
  lastSize?: number;
}

export interface VhdxRecipe {
  size: number;
  blockSize?: number;
  sectorSize?: number;
  /** Guest block by number. */
  blocks?: Readonly<Record<number, VhdxBlock>>;
  parent?: VhdxParent;
  dataWriteGuid?: string;
  /** All bytes of the disk's identifier. */
  diskId?: number;
  /** The log is in use, with these entries. */
  log?: readonly VhdxLogEntry[];
  logGuid?: string;
}

export const LOG_GUID = '11223344-5566-7788-99aa-bbccddeeff00';
export const WRITE_GUID = '00112233-4455-6677-8899-aabbccddeeff';

const NO_GUID = '00000000-0000-0000-0000-000000000000';

export function makeVhdx(recipe: VhdxRecipe): Buffer {
  const { blocks = {}, blockSize = MIB } = recipe;
  const stored = Object.entries(blocks).filter(([, { state }]) => state >= 6);
  const chunks = new Set(
    stored.filter(([, { state }]) => state === 7).map(([block]) => chunkOf(recipe, Number(block))),
  );
  const file = Buffer.alloc(VHDX_PLACES.blocks + stored.length * blockSize + chunks.size * MIB);
  file.write('vhdxfile', 0, 'latin1');
  file.write('a test', 8, 'utf16le');
  writeHeaders(file, recipe);
  writeRegions(file);
  writeMetadata(file, recipe);
  writeBlocks(file, recipe, [...chunks]);
  for (const entry of recipe.log ?? []) writeLogEntry(file, entry, recipe.logGuid ?? LOG_GUID);
  return file;
}

export function chunkRatio({ blockSize = MIB, sectorSize = 512 }: VhdxRecipe): number {
  return (2 ** 23 * sectorSize) / blockSize;
}

function chunkOf(recipe: VhdxRecipe, block: number): number {
  return Math.floor(block / chunkRatio(recipe));
}

function writeHeaders(file: Buffer, { dataWriteGuid = WRITE_GUID, log, logGuid = LOG_GUID }: VhdxRecipe): void {
  [64 * KIB, 128 * KIB].forEach((at, index) => {
    file.write('head', at, 'latin1');
    file.writeBigUInt64LE(BigInt(7 + index), at + 8);
    guid(file, at + 16, WRITE_GUID);
    guid(file, at + 32, dataWriteGuid);
    guid(file, at + 48, log === undefined ? NO_GUID : logGuid);
    file.writeUInt16LE(1, at + 66);
    file.writeUInt32LE(LOG_LENGTH, at + 68);
    file.writeBigUInt64LE(BigInt(VHDX_PLACES.log), at + 72);
    seal(file, at, 4 * KIB);
  });
}

function writeRegions(file: Buffer): void {
  for (const at of [192 * KIB, 256 * KIB]) {
    file.write('regi', at, 'latin1');
    file.writeUInt32LE(2, at + 8);
    const regions = [
      ['8b7ca206-4790-4b9a-b8fe-575f050f886e', VHDX_PLACES.metadata],
      ['2dc27766-f623-4200-9d64-115e9bfd4a08', VHDX_PLACES.bat],
    ] as const;
    regions.forEach(([id, offset], index) => {
      guid(file, at + 16 + 32 * index, id);
      file.writeBigUInt64LE(BigInt(offset), at + 32 + 32 * index);
      file.writeUInt32LE(MIB, at + 40 + 32 * index);
      file.writeUInt32LE(1, at + 44 + 32 * index);
    });
    seal(file, at, 64 * KIB);
  }
}

function writeMetadata(file: Buffer, recipe: VhdxRecipe): void {
  const { size, blockSize = MIB, sectorSize = 512, parent, diskId = 0x5a } = recipe;
  const items: [string, Buffer][] = [
    ['caa16737-fa36-4d43-b3b6-33f0aa44e76b', numbers([blockSize, 4], [parent === undefined ? 0 : 2, 4])],
    ['2fa54224-cd1b-4876-b211-5dbed83bf4b8', numbers([size, 8])],
    ['beca12ab-b2e6-4523-93ef-c309e000c746', Buffer.alloc(16, diskId)],
    ['8141bf1d-a96f-4709-ba47-f233a8faab5f', numbers([sectorSize, 4])],
    ['cda348c7-445d-4471-9cc9-e9885251c556', numbers([4096, 4])],
  ];
  if (parent !== undefined) items.push(['a8d35f2d-b30b-454d-abf7-d3d84834ab0c', locator(parent)]);
  const base = VHDX_PLACES.metadata;
  file.write('metadata', base, 'latin1');
  file.writeUInt16LE(items.length, base + 10);
  let offset = 64 * KIB;
  items.forEach(([id, bytes], index) => {
    const at = base + 32 + 32 * index;
    guid(file, at, id);
    file.writeUInt32LE(offset, at + 16);
    file.writeUInt32LE(bytes.length, at + 20);
    file.writeUInt32LE(4, at + 24);
    bytes.copy(file, base + offset);
    offset += bytes.length;
  });
}

function locator({ linkage, paths }: VhdxParent): Buffer {
  const pairs = Object.entries({ parent_linkage: `{${linkage}}`, ...paths });
  const head = Buffer.alloc(20 + 12 * pairs.length);
  guid(head, 0, 'b04aefb7-d19e-4a81-b789-25b8e9445913');
  head.writeUInt16LE(pairs.length, 18);
  const texts: Buffer[] = [];
  let offset = head.length;
  pairs.forEach((pair, index) => {
    pair.forEach((text, which) => {
      const bytes = Buffer.from(text, 'utf16le');
      head.writeUInt32LE(offset, 20 + 12 * index + 4 * which);
      head.writeUInt16LE(bytes.length, 28 + 12 * index + 2 * which);
      texts.push(bytes);
      offset += bytes.length;
    });
  });
  return Buffer.concat([head, ...texts]);
}

function writeBlocks(file: Buffer, recipe: VhdxRecipe, chunks: readonly number[]): void {
  const { blocks = {}, blockSize = MIB, sectorSize = 512 } = recipe;
  const ratio = chunkRatio(recipe);
  let next = VHDX_PLACES.blocks;
  const bitmaps = new Map<number, number>();
  for (const chunk of chunks) {
    putEntry(file, chunk * (ratio + 1) + ratio, 6, next);
    bitmaps.set(chunk, next);
    next += MIB;
  }
  for (const [key, { state, bytes, sectors = [] }] of Object.entries(blocks)) {
    const block = Number(key);
    const chunk = Math.floor(block / ratio);
    putEntry(file, block + chunk, state, state >= 6 ? next : 0);
    if (state < 6) continue;
    bytes?.copy(file, next);
    next += blockSize;
    const first = ((block % ratio) * blockSize) / sectorSize;
    sectors.forEach((there, index) => {
      const bit = first + index;
      if (there) file[(bitmaps.get(chunk) ?? 0) + (bit >> 3)] |= 1 << (bit & 7);
    });
  }
}

function putEntry(file: Buffer, index: number, state: number, offset: number): void {
  batEntry(state, offset).copy(file, VHDX_PLACES.bat + 8 * index);
}

/** An entry of the BAT. */
export function batEntry(state: number, offset = 0): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(offset) + BigInt(state));
  return bytes;
}

/** Writes an entry of the log; one that reaches beyond the log's end goes on at its start. */
export function writeLogEntry(file: Buffer, entry: VhdxLogEntry, logGuid: string): void {
  const { place, tail = place, sequence, updates, guid: own = logGuid } = entry;
  const { flushedSize = VHDX_PLACES.blocks, lastSize = flushedSize } = entry;
  const descriptors = Math.ceil((64 + 32 * updates.length) / SECTOR);
  const data = updates.filter((update) => 'bytes' in update);
  const bytes = Buffer.alloc((descriptors + data.length) * SECTOR);
  bytes.write('loge', 0, 'latin1');
  bytes.writeUInt32LE(bytes.length, 8);
  bytes.writeUInt32LE(tail, 12);
  bytes.writeBigUInt64LE(sequence, 16);
  bytes.writeUInt32LE(updates.length, 24);
  guid(bytes, 32, own);
  bytes.writeBigUInt64LE(BigInt(flushedSize), 48);
  bytes.writeBigUInt64LE(BigInt(lastSize), 56);
  let sector = descriptors * SECTOR;
  updates.forEach((update, index) => {
    const at = 64 + 32 * index;
    bytes.write('bytes' in update ? 'desc' : 'zero', at, 'latin1');
    bytes.writeBigUInt64LE(BigInt(update.offset), at + 16);
    bytes.writeBigUInt64LE(sequence, at + 24);
    if (!('bytes' in update)) {
      bytes.writeBigUInt64LE(BigInt(update.zeros), at + 8);
      return;
    }
    update.bytes.copy(bytes, at + 4, 4092, 4096);
    update.bytes.copy(bytes, at + 8, 0, 8);
    update.bytes.copy(bytes, sector);
    bytes.write('data', sector, 'latin1');
    bytes.writeUInt32LE(Number(sequence >> 32n), sector + 4);
    bytes.writeUInt32LE(Number(sequence & 0xffffffffn), sector + 4092);
    sector += SECTOR;
  });
  seal(bytes, 0, bytes.length);
  for (let at = 0; at < bytes.length; at += SECTOR) {
    bytes.copy(file, VHDX_PLACES.log + ((place + at) % LOG_LENGTH), at, at + SECTOR);
  }
}

/** Puts the checksum of a structure, four bytes behind its start. */
export function seal(file: Buffer, at: number, length: number): void {
  file.writeUInt32LE(0, at + 4);
  file.writeUInt32LE(crc32c(file.subarray(at, at + length)), at + 4);
}

/** Castagnoli's polynomial, bit by bit. */
export function crc32c(bytes: Buffer): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}

function numbers(...fields: [value: number, width: number][]): Buffer {
  return Buffer.concat(
    fields.map(([value, width]) => {
      const bytes = Buffer.alloc(width);
      bytes.writeUIntLE(value, 0, Math.min(6, width));
      return bytes;
    }),
  );
}

function guid(file: Buffer, at: number, text: string): void {
  const [a, b, c, d, e] = text.split('-');
  file.writeUInt32LE(Number.parseInt(a, 16), at);
  file.writeUInt16LE(Number.parseInt(b, 16), at + 4);
  file.writeUInt16LE(Number.parseInt(c, 16), at + 6);
  Buffer.from(d + e, 'hex').copy(file, at + 8);
}
