import { alignUp, readU64LE, writeU64LE } from '../core/binary.ts';
import { ensure, ImageError } from '../core/errors.ts';

/**
 * VirtualBox's disk image, version 1.1: a header, a block map of 32-bit block numbers, and blocks. Little-endian. As
 * described in "All about VDIs" (VirtualBox forum, Terry Tremethick) and by what QEMU 7.2 makes and accepts.
 */

/** Offsets and sizes in bytes. */
export interface VdiHeader {
  /** One of `VdiType`, or what else the file says. */
  type: number;
  mapOffset: number;
  dataOffset: number;
  /** Guest disk size. */
  size: number;
  /** Entries of the block map. */
  blocks: number;
  /** Blocks that have a place in the file: the next one gets this number. */
  allocated: number;
}

/** Kinds of images; those with a parent (undo, differencing) are told by their UUIDs. */
export const VdiType = { dynamic: 1, static: 2 } as const;

/** The one block size that QEMU makes and reads, and VirtualBox's default. */
export const VDI_BLOCK = 1024 * 1024;
/** All of the header that is looked at; tables begin at multiples of it. */
export const VDI_HEADER = 512;
/** Size of the structure as its own field tells it: the one of QEMU's images. */
const HEADER_SIZE = 0x180;
const SIGNATURE = 0xbeda107f;
const VERSION_1_1 = 0x0001_0001;
const SECTOR = 512;
/** QEMU's limit: the block map, in sectors, must be below 2^31 bytes. */
const MAX_BLOCKS = 0x1fff_ff80;
const MAX_SIZE = MAX_BLOCKS * VDI_BLOCK;

/** Bytes of an entry of the block map. */
export const MAP_ENTRY = 4;
/** Entries that name no block: never written, and given up. Both read as zeros. */
export const BLOCK_UNALLOCATED = 0xffff_ffff;
export const BLOCK_DISCARDED = 0xffff_fffe;

/** What the file begins with, for people. Programs go by the signature. */
const BANNER = '<<< QEMU VM Virtual Disk Image >>>\n';

/** Where the fields lie. */
const At = {
  banner: 0,
  signature: 0x40,
  version: 0x44,
  headerSize: 0x48,
  type: 0x4c,
  mapOffset: 0x154,
  dataOffset: 0x158,
  sectorSize: 0x168,
  size: 0x170,
  blockSize: 0x178,
  blocks: 0x180,
  allocated: 0x184,
  uuid: 0x188,
  snapshotUuid: 0x198,
  linkUuid: 0x1a8,
  parentUuid: 0x1b8,
} as const;
const UUID = 16;

/** Offset of the count of allocated blocks, for code that changes it in place. */
export const ALLOCATED_AT = At.allocated;

export function hasVdiSignature(head: Buffer): boolean {
  return head.length >= At.signature + 4 && head.readUInt32LE(At.signature) === SIGNATURE;
}

/**
 * Decodes and checks the header, `VDI_HEADER` bytes. `corrupt` or `unsupported` ImageErrors as QEMU words them. Whether
 * the tables lie inside the file is for `checkVdiTables`.
 */
export function decodeVdiHeader(head: Buffer): VdiHeader {
  const diskSize = head.readBigUInt64LE(At.size);
  if (diskSize > MAX_SIZE) throw tooLarge(diskSize);
  const signature = head.readUInt32LE(At.signature);
  ensure(signature === SIGNATURE, `Image not in VDI format (bad signature ${hex(signature).padStart(8, '0')})`, {
    offset: At.signature,
  });
  checkFormat(head);
  const size = alignUp(readU64LE(head, At.size, 'The disk size'), SECTOR);
  const blocks = head.readUInt32LE(At.blocks);
  if (size > blocks * VDI_BLOCK) {
    throw unsupported(`disk size ${size}, image bitmap has room for ${blocks * VDI_BLOCK}`, At.size);
  }
  if (!isNull(head, At.linkUuid)) throw unsupported('non-NULL link UUID', At.linkUuid);
  if (!isNull(head, At.parentUuid)) throw unsupported('non-NULL parent UUID', At.parentUuid);
  if (blocks > MAX_BLOCKS) throw unsupported(`too many blocks ${blocks}, max is ${MAX_BLOCKS}`, At.blocks);
  return {
    type: head.readUInt32LE(At.type),
    mapOffset: head.readUInt32LE(At.mapOffset),
    dataOffset: head.readUInt32LE(At.dataOffset),
    size,
    blocks,
    allocated: head.readUInt32LE(At.allocated),
  };
}

function checkFormat(head: Buffer): void {
  const version = head.readUInt32LE(At.version);
  if (version !== VERSION_1_1) throw unsupported(`version ${version >>> 16}.${version & 0xffff}`, At.version);
  const mapOffset = head.readUInt32LE(At.mapOffset);
  if (mapOffset % SECTOR !== 0) throw unsupported(`unaligned block map offset 0x${hex(mapOffset)}`, At.mapOffset);
  const dataOffset = head.readUInt32LE(At.dataOffset);
  if (dataOffset % SECTOR !== 0) throw unsupported(`unaligned data offset 0x${hex(dataOffset)}`, At.dataOffset);
  const sectorSize = head.readUInt32LE(At.sectorSize);
  if (sectorSize !== SECTOR) throw unsupported(`sector size ${sectorSize} is not ${SECTOR}`, At.sectorSize);
  const blockSize = head.readUInt32LE(At.blockSize);
  if (blockSize !== VDI_BLOCK) throw unsupported(`block size ${blockSize} is not ${VDI_BLOCK}`, At.blockSize);
}

/** Checks that header, block map and blocks lie apart, and that the file of `fileSize` bytes has the whole map. */
export function checkVdiTables({ mapOffset, dataOffset, blocks }: VdiHeader, fileSize: number): void {
  const end = mapOffset + blocks * MAP_ENTRY;
  ensure(mapOffset >= VDI_HEADER, 'The block map lies in the header', { offset: At.mapOffset });
  ensure(end <= fileSize, 'The block map lies past the end of the file', { offset: At.mapOffset });
  ensure(dataOffset >= end, 'The blocks lie in the block map or before it', { offset: At.dataOffset });
}

/** The header of a new disk. Throws for a size that QEMU would not open. */
export function newVdiHeader(size: number, type: number): VdiHeader {
  if (size > MAX_SIZE) throw tooLarge(BigInt(size));
  const blocks = Math.ceil(size / VDI_BLOCK);
  return {
    type,
    mapOffset: VDI_HEADER,
    dataOffset: VDI_HEADER + alignUp(blocks * MAP_ENTRY, SECTOR),
    size: alignUp(size, SECTOR),
    blocks,
    allocated: type === VdiType.static ? blocks : 0,
  };
}

/**
 * The header's bytes, `VDI_HEADER` of them.
 * @param uuids of the image and of its last change: 16 bytes each, as a GUID is stored
 */
export function encodeVdiHeader(header: VdiHeader, uuids: { image: Buffer; snapshot: Buffer }): Buffer {
  const head = Buffer.alloc(VDI_HEADER);
  head.write(BANNER, At.banner, 'latin1');
  head.writeUInt32LE(SIGNATURE, At.signature);
  head.writeUInt32LE(VERSION_1_1, At.version);
  head.writeUInt32LE(HEADER_SIZE, At.headerSize);
  head.writeUInt32LE(header.type, At.type);
  head.writeUInt32LE(header.mapOffset, At.mapOffset);
  head.writeUInt32LE(header.dataOffset, At.dataOffset);
  head.writeUInt32LE(SECTOR, At.sectorSize);
  writeU64LE(head, At.size, header.size);
  head.writeUInt32LE(VDI_BLOCK, At.blockSize);
  head.writeUInt32LE(header.blocks, At.blocks);
  head.writeUInt32LE(header.allocated, At.allocated);
  uuids.image.copy(head, At.uuid, 0, UUID);
  uuids.snapshot.copy(head, At.snapshotUuid, 0, UUID);
  return head;
}

/** Whether an entry of the block map names a block. */
export function isAllocated(entry: number): boolean {
  return entry < BLOCK_DISCARDED;
}

function isNull(head: Buffer, at: number): boolean {
  return head.subarray(at, at + UUID).every((byte) => byte === 0);
}

function hex(value: number | bigint): string {
  return value.toString(16);
}

function unsupported(what: string, offset: number): ImageError {
  return new ImageError('unsupported', `unsupported VDI image (${what})`, { offset });
}

function tooLarge(size: bigint): ImageError {
  const message = `Unsupported VDI image size (size is 0x${hex(size)}, max supported is 0x${hex(MAX_SIZE)})`;
  return new ImageError('unsupported', message, { offset: At.size });
}
