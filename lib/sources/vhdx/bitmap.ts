/** A part of a block whose sectors a bitmap tells of (section 2.4). */
export interface BitmapRange {
  bitmap: Buffer;
  /** The bit of the block's first sector. */
  firstBit: number;
  sectorSize: number;
  /** Guest offset of the block. */
  base: number;
  /** Guest range to tell of; both may lie within sectors. */
  start: number;
  end: number;
}

/** Calls `report` for each run of sectors that are alike, cut to the range. */
export function reportBitmap(
  range: BitmapRange,
  report: (present: boolean, offset: number, length: number) => void,
): void {
  const { bitmap, firstBit, sectorSize, base, start, end } = range;
  const bitAt = (offset: number) => firstBit + Math.floor((offset - base) / sectorSize);
  const last = bitAt(end - 1);
  let bit = bitAt(start);
  for (let from = start; from < end; ) {
    const present = isSet(bitmap, bit);
    bit = endOfRun(bitmap, bit, last, present);
    const to = Math.min(end, base + (bit - firstBit) * sectorSize);
    report(present, from, to - from);
    from = to;
  }
}

/** Bit 0 is the lowest one of byte 0. */
function isSet(bitmap: Buffer, bit: number): boolean {
  return (bitmap[bit >> 3] & (1 << (bit & 7))) !== 0;
}

/** The first bit behind `bit` that is another, or `last` + 1. */
function endOfRun(bitmap: Buffer, bit: number, last: number, present: boolean): number {
  const whole = present ? 0xff : 0;
  let at = bit + 1;
  while (at <= last) {
    if ((at & 7) === 0 && bitmap[at >> 3] === whole) at += 8;
    else if (isSet(bitmap, at) === present) at += 1;
    else return at;
  }
  return last + 1;
}
