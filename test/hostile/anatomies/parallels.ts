import { type Anatomy, AnatomyBuilder } from '../anatomy.ts';

const SECTOR = 512;

/** Parallels: header of 64 bytes, little-endian, and a map of 4-byte entries right behind it. */
export function parallelsAnatomy(bytes: Buffer): Anatomy {
  const anatomy = new AnatomyBuilder(bytes, { unit: bytes.readUInt32LE(28) * SECTOR, order: 'little' });
  anatomy.structure({ name: 'header', offset: 0, length: 64 }, [
    ['magic', 0, 8],
    ['magic, second half', 8, 8],
    ['version', 16, 4],
    ['heads', 20, 4],
    ['cylinders', 24, 4],
    ['tracks', 28, 4],
    ['BAT entries', 32, 4],
    ['sectors', 36, 8],
    ['in use', 44, 4],
    ['data offset', 48, 4],
    ['flags', 52, 4],
    ['extension offset', 56, 8],
  ]);
  return anatomy.table({ name: 'BAT', offset: 64, length: 4 * bytes.readUInt32LE(32) }, 4);
}
