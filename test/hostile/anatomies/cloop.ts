import { type Anatomy, AnatomyBuilder } from '../anatomy.ts';

const HEADER = 136;

/** Compressed loop, version 2: a script of 128 bytes, two numbers, and 8-byte offsets, all big-endian. */
export function cloopAnatomy(bytes: Buffer): Anatomy {
  const anatomy = new AnatomyBuilder(bytes, { unit: 4096, order: 'big' });
  anatomy.structure({ name: 'header', offset: 0, length: HEADER }, [
    ['script', 0, 8],
    ['block size', 128, 4],
    ['blocks', 132, 4],
  ]);
  const length = 8 * (bytes.readUInt32BE(132) + 1);
  anatomy.table({ name: 'offsets', offset: HEADER, length }, 8);
  anatomy.regions.push({ name: 'blocks', offset: HEADER + length, length: bytes.length - HEADER - length });
  anatomy.cuts = [...anatomy.cuts, 131, 132, 135, 136, 143, 144];
  return anatomy;
}
