import { createHash } from 'node:crypto';

/** The header of a new image of qemu-img turned into one of the old kind, whose BAT counts sectors. */
export function asOldKind(image: Buffer): Buffer {
  const copy = Buffer.from(image);
  copy.write('WithoutFreeSpace', 0, 'latin1');
  const tracks = copy.readUInt32LE(28);
  for (let index = 0; index < copy.readUInt32LE(32); index += 1) {
    copy.writeUInt32LE(copy.readUInt32LE(64 + index * 4) * tracks, 64 + index * 4);
  }
  return copy;
}

/** A dirty bitmap as a feature of the Format Extension. */
export interface BitmapRecipe {
  id?: number;
  /** Sectors of the disk. */
  sectors: number;
  granularity?: number;
  /** Its L1 table. */
  clusters?: readonly bigint[];
  /** What the feature says of its own length, where it lies. */
  l1Entries?: number;
}

export function bitmapData({ id = 7, sectors, granularity = 8, clusters = [1n], l1Entries }: BitmapRecipe): Buffer {
  const data = Buffer.alloc(32 + clusters.length * 8);
  data.writeBigUInt64LE(BigInt(sectors), 0);
  data.fill(id, 8, 24);
  data.writeUInt32LE(granularity, 24);
  data.writeUInt32LE(l1Entries ?? clusters.length, 28);
  for (const [index, entry] of clusters.entries()) data.writeBigUInt64LE(entry, 32 + index * 8);
  return data;
}

export const BITMAP_FEATURE = 0x20385fae252cb34an;

/** A feature section. */
export function feature(magic: bigint, data: Buffer, { flags = 0n, dataSize = data.length } = {}): Buffer {
  const head = Buffer.alloc(24);
  head.writeBigUInt64LE(magic, 0);
  head.writeBigUInt64LE(flags, 8);
  head.writeUInt32LE(dataSize, 16);
  return Buffer.concat([head, data, Buffer.alloc((8 - (data.length % 8)) % 8)]);
}

/** The image with a Format Extension of these features behind its end, and clusters of bits behind that. */
export function withExtension(image: Buffer, features: readonly Buffer[], bits: readonly Buffer[] = []): Buffer {
  const clusterSize = image.readUInt32LE(28) * 512;
  const start = Math.ceil(image.length / clusterSize) * clusterSize;
  const extension = Buffer.alloc(clusterSize);
  extension.writeBigUInt64LE(0xab234cef23dcea87n, 0);
  Buffer.concat(features).copy(extension, 24);
  const whole = Buffer.concat([
    Buffer.concat([image], start),
    extension,
    ...bits.map((each) => padded(each, clusterSize)),
  ]);
  whole.writeBigUInt64LE(BigInt(start / 512), 56);
  return sealExtension(whole);
}

/** Makes the checksum of the image's extension right. */
export function sealExtension(image: Buffer): Buffer {
  const start = Number(image.readBigUInt64LE(56)) * 512;
  const extension = image.subarray(start, start + image.readUInt32LE(28) * 512);
  createHash('md5').update(extension.subarray(24)).digest().copy(extension, 8);
  return image;
}

function padded(bytes: Buffer, length: number): Buffer {
  return Buffer.concat([bytes], length);
}
