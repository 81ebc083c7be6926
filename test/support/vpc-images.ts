/** A generator of VHD images, dynamic and differencing, independent of the library's own encoders. */

export interface VhdParent {
  uniqueId: Buffer;
  /** Field "Parent Unicode Name". */
  name?: string;
  /** Platform code and the bytes that the locator points to. */
  locators?: readonly (readonly [platform: string, bytes: Buffer])[];
}

export interface VhdRecipe {
  /** What the disk holds; its length is the disk's. */
  disk: Buffer;
  /** Whether a sector is in this image; default all of the blocks that are not all zeros. */
  present?: (sector: number) => boolean;
  parent?: VhdParent;
  blockSize?: number;
  uniqueId?: Buffer;
  /** The order of the blocks in the file: the blocks that are there, rearranged. Default ascending. */
  order?: (blocks: number[]) => number[];
  creator?: string;
}

const SECTOR = 512;
const HEADER = 512;
const TABLE = 1536;

/** The bytes of the image. Sectors of a block that are not present hold rubbish where there is a parent, else zeros. */
export function makeVhd(recipe: VhdRecipe): Buffer {
  const { disk, blockSize = 2 * 1024 * 1024, parent, order = (blocks) => blocks } = recipe;
  const entries = Math.ceil(disk.length / blockSize);
  const tableLength = roundUp(entries * 4, SECTOR);
  const locators = (parent?.locators ?? []).map(([platform, bytes]) => ({ platform, bytes, offset: 0 }));
  let end = TABLE + tableLength;
  for (const locator of locators) {
    locator.offset = end;
    end += roundUp(Math.max(1, locator.bytes.length), SECTOR);
  }
  const bitmapLength = roundUp(blockSize / SECTOR / 8, SECTOR);
  const there = Array.from({ length: entries }, (_, block) => block).filter((block) =>
    isThere(recipe, block, blockSize),
  );
  const image = Buffer.alloc(end + there.length * (bitmapLength + blockSize) + SECTOR);
  image.fill(0xff, TABLE, TABLE + tableLength);
  for (const { bytes, offset } of locators) bytes.copy(image, offset);
  for (const block of order(there)) {
    image.writeUInt32BE(end / SECTOR, TABLE + 4 * block);
    fillBlock(image.subarray(end, end + bitmapLength + blockSize), { recipe, block, blockSize, bitmapLength });
    end += bitmapLength + blockSize;
  }
  const footer = footerOf(recipe);
  footer.copy(image, 0);
  footer.copy(image, end);
  headerOf({ entries, blockSize, parent, locators }).copy(image, HEADER);
  return image;
}

/** A locator's bytes for Windows' platforms. */
export function utf16(text: string): Buffer {
  return Buffer.from(text, 'utf16le');
}

function isThere({ disk, present }: VhdRecipe, block: number, blockSize: number): boolean {
  const start = block * blockSize;
  const bytes = disk.subarray(start, start + blockSize);
  if (present === undefined) return bytes.some((byte) => byte !== 0);
  return Array.from({ length: bytes.length / SECTOR }, (_, at) => start / SECTOR + at).some(present);
}

function fillBlock(
  place: Buffer,
  given: { recipe: VhdRecipe; block: number; blockSize: number; bitmapLength: number },
): void {
  const { recipe, block, blockSize, bitmapLength } = given;
  const { disk, present = () => true, parent } = recipe;
  for (let at = 0; at < blockSize; at += SECTOR) {
    const guest = block * blockSize + at;
    const target = place.subarray(bitmapLength + at, bitmapLength + at + SECTOR);
    const sector = at / SECTOR;
    if (guest < disk.length && present(guest / SECTOR)) {
      disk.copy(target, 0, guest, guest + SECTOR);
      place[sector >> 3] |= 0x80 >> (sector & 7);
    } else if (parent !== undefined) {
      target.fill(0xba);
    }
  }
}

function footerOf({ disk, parent, uniqueId = Buffer.alloc(16, 7), creator = 'win ' }: VhdRecipe): Buffer {
  const footer = Buffer.alloc(SECTOR);
  footer.write('conectix', 0, 'latin1');
  footer.writeUInt32BE(2, 8);
  footer.writeUInt32BE(0x10000, 12);
  footer.writeBigUInt64BE(BigInt(HEADER), 16);
  footer.write(creator, 28, 'latin1');
  footer.writeBigUInt64BE(BigInt(disk.length), 40);
  footer.writeBigUInt64BE(BigInt(disk.length), 48);
  footer.writeUInt32BE(parent === undefined ? 3 : 4, 60);
  uniqueId.copy(footer, 68);
  return sealed(footer, 64);
}

interface HeaderParts {
  entries: number;
  blockSize: number;
  parent: VhdParent | undefined;
  locators: readonly { platform: string; bytes: Buffer; offset: number }[];
}

function headerOf({ entries, blockSize, parent, locators }: HeaderParts): Buffer {
  const header = Buffer.alloc(1024);
  header.write('cxsparse', 0, 'latin1');
  header.fill(0xff, 8, 16);
  header.writeBigUInt64BE(BigInt(TABLE), 16);
  header.writeUInt32BE(0x10000, 24);
  header.writeUInt32BE(entries, 28);
  header.writeUInt32BE(blockSize, 32);
  parent?.uniqueId.copy(header, 40);
  Buffer.from(parent?.name ?? '', 'utf16le')
    .swap16()
    .copy(header, 64);
  for (const [index, { platform, bytes, offset }] of locators.entries()) {
    const at = 576 + 24 * index;
    header.write(platform, at, 'latin1');
    header.writeUInt32BE(roundUp(bytes.length, SECTOR), at + 4);
    header.writeUInt32BE(bytes.length, at + 8);
    header.writeBigUInt64BE(BigInt(offset), at + 16);
  }
  return sealed(header, 36);
}

function sealed(bytes: Buffer, at: number): Buffer {
  let sum = 0;
  for (const byte of bytes) sum += byte;
  bytes.writeUInt32BE(~sum >>> 0, at);
  return bytes;
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
