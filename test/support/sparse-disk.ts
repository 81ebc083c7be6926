import { pattern, Random } from './model.ts';

/** A disk of `size` bytes with runs of zeros, of data that compress, and of noise, which begin and end at sectors. */
export function sparseDisk(size: number, seed: number): Buffer {
  const random = new Random(seed);
  const disk = Buffer.alloc(size);
  for (let at = 0; at < size; ) {
    const length = Math.min(size - at, 512 * (1 + random.below(200)));
    const kind = random.below(3);
    if (kind === 1) pattern(length, at).copy(disk, at);
    if (kind === 2) random.bytes(length).copy(disk, at);
    at += length;
  }
  return disk;
}
