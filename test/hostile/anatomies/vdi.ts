import { type Anatomy, AnatomyBuilder } from '../anatomy.ts';

/** VDI 1.1: header of 400 bytes behind 64 of text, little-endian, and a map of 4-byte block numbers. */
export function vdiAnatomy(bytes: Buffer): Anatomy {
  const anatomy = new AnatomyBuilder(bytes, { unit: bytes.readUInt32LE(0x178), order: 'little' });
  anatomy.structure({ name: 'header', offset: 0, length: 512 }, [
    ['signature', 0x40, 4],
    ['version', 0x44, 4],
    ['header size', 0x48, 4],
    ['image type', 0x4c, 4],
    ['image flags', 0x50, 4],
    ['offset of blocks', 0x154, 4],
    ['offset of data', 0x158, 4],
    ['sector size', 0x168, 4],
    ['disk size', 0x170, 8],
    ['block size', 0x178, 4],
    ['block extra', 0x17c, 4],
    ['blocks in image', 0x180, 4],
    ['blocks allocated', 0x184, 4],
    ['uuid of link', 0x1a8, 8],
    ['uuid of parent', 0x1b8, 8],
  ]);
  const length = 4 * bytes.readUInt32LE(0x180);
  anatomy.table({ name: 'block map', offset: bytes.readUInt32LE(0x154), length }, 4);
  anatomy.cuts = [...anatomy.cuts, 0x44, 0x48, 0x157, 0x187, 0x1c8, 399, 400, 463, 464];
  return anatomy;
}
