import { alignUp } from '../../core/binary.ts';
import { BAT_ENTRY_SIZE } from './dynamic-header.ts';
import { SECTOR } from './footer.ts';

/** Bytes of the sector bitmap before each block: a bit for each sector, in whole sectors. */
export function bitmapBytes(blockSize: number): number {
  return alignUp(blockSize / SECTOR / 8, SECTOR);
}

/** Bytes of a block allocation table, in whole sectors. */
export function tableBytes(entries: number): number {
  return alignUp(entries * BAT_ENTRY_SIZE, SECTOR);
}

/** What a sector bitmap says of all of a block's sectors; null: they differ. */
export function uniformBitmap(bitmap: Buffer, sectors: number): boolean | null {
  const first = isSet(bitmap, 0);
  return runEnd(bitmap, 0, sectors) === sectors ? first : null;
}

/** Whether the sector is in this layer. The first sector is the highest bit of the first byte. */
export function isSet(bitmap: Buffer, sector: number): boolean {
  return ((bitmap[sector >> 3] >> (7 - (sector & 7))) & 1) === 1;
}

/** The first sector behind `sector` that is otherwise, or `end`. */
export function runEnd(bitmap: Buffer, sector: number, end: number): number {
  const set = isSet(bitmap, sector);
  const whole = set ? 0xff : 0;
  let next = sector + 1;
  while (next < end) {
    if ((next & 7) === 0 && bitmap[next >> 3] === whole) next += 8;
    else if (isSet(bitmap, next) === set) next += 1;
    else break;
  }
  return Math.min(next, end);
}
