import { inflateZlibUpTo } from '../../core/codecs.ts';
import { ensure, ImageError } from '../../core/errors.ts';
import { decodeMarker, GRAIN_MARKER_BYTES, SECTOR } from '../../layouts/vmdk/index.ts';

/**
 * Decompresses grains of a disk of `diskSize` bytes. What is given begins with the grain's marker. The disk's last grain may
 * be stored as far as the disk reaches; any other that is short is `corrupt`.
 */
export function grainInflater(diskSize: number): (packed: Buffer, size: number) => Promise<Buffer> {
  return async (packed, size) => {
    const marker = decodeMarker(packed);
    if (marker.kind !== 'grain' || GRAIN_MARKER_BYTES + marker.size > packed.length) {
      throw new ImageError('corrupt', 'invalid grain marker: a compressed grain does not begin where it should');
    }
    const offset = marker.sector * SECTOR;
    ensure(offset % size === 0 && offset < diskSize, 'A compressed grain names a place outside the disk');
    const wanted = Math.min(size, diskSize - offset);
    const data = packed.subarray(GRAIN_MARKER_BYTES, GRAIN_MARKER_BYTES + marker.size);
    return inflateGrain(data, size, wanted);
  };
}

/** `size` bytes, of which at least `wanted` come from `data`. */
export async function inflateGrain(data: Buffer, size: number, wanted: number): Promise<Buffer> {
  const plain = await inflateZlibUpTo(data, size);
  ensure(plain.length >= wanted, `A compressed grain has ${plain.length} bytes instead of ${wanted}`);
  if (plain.length === size) return plain;
  const whole = Buffer.alloc(size);
  plain.copy(whole);
  return whole;
}
