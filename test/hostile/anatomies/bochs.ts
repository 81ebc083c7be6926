import { type Anatomy, AnatomyBuilder } from '../anatomy.ts';

/** Bochs growing redolog: header of 512 bytes, little-endian, and a catalog of 4-byte extent numbers. */
export function bochsAnatomy(bytes: Buffer): Anatomy {
  const anatomy = new AnatomyBuilder(bytes, { unit: bytes.readUInt32LE(80), order: 'little' });
  anatomy.structure({ name: 'header', offset: 0, length: 112 }, [
    ['magic', 0, 8],
    ['type', 32, 8],
    ['subtype', 48, 8],
    ['version', 64, 4],
    ['header size', 68, 4],
    ['catalog entries', 72, 4],
    ['bitmap size', 76, 4],
    ['extent size', 80, 4],
    ['timestamp or disk size', 84, 4],
    ['disk size', 88, 8],
  ]);
  const length = 4 * bytes.readUInt32LE(72);
  anatomy.table({ name: 'catalog', offset: bytes.readUInt32LE(68), length }, 4);
  return anatomy;
}
