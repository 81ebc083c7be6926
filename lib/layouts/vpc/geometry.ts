/** Cylinders, heads and sectors, as a BIOS counts them. */
export interface DiskGeometry {
  cylinders: number;
  heads: number;
  sectorsPerTrack: number;
}

const MAX_CYLINDERS = 65535;
const MAX_HEADS = 16;
const MAX_SECTORS_PER_TRACK = 255;

/** Sectors of the largest geometry: disks that are larger have it too, and their size in another field. */
export const MAX_CHS_SECTORS = MAX_CYLINDERS * MAX_HEADS * MAX_SECTORS_PER_TRACK;

/** The geometry of disks whose size is told apart. */
export const MAX_GEOMETRY: DiskGeometry = {
  cylinders: MAX_CYLINDERS,
  heads: MAX_HEADS,
  sectorsPerTrack: MAX_SECTORS_PER_TRACK,
};

export function geometrySectors({ cylinders, heads, sectorsPerTrack }: DiskGeometry): number {
  return cylinders * heads * sectorsPerTrack;
}

/**
 * "Appendix: CHS Calculation" of the VHD specification: the geometry of a disk of so many sectors, which it covers
 * but for less than a cylinder.
 */
export function geometryOf(sectors: number): DiskGeometry {
  const total = Math.min(sectors, MAX_CHS_SECTORS);
  if (total >= MAX_CYLINDERS * MAX_HEADS * 63) return withTrack(total, MAX_SECTORS_PER_TRACK, MAX_HEADS);
  const tracks = Math.floor(total / 17);
  const heads = Math.max(4, Math.floor((tracks + 1023) / 1024));
  if (heads <= MAX_HEADS && tracks < heads * 1024) return withTrack(total, 17, heads);
  const geometry = withTrack(total, 31, MAX_HEADS);
  return Math.floor(total / 31) < MAX_HEADS * 1024 ? geometry : withTrack(total, 63, MAX_HEADS);
}

function withTrack(total: number, sectorsPerTrack: number, heads: number): DiskGeometry {
  return { cylinders: Math.floor(Math.floor(total / sectorsPerTrack) / heads), heads, sectorsPerTrack };
}

/**
 * The smallest geometry that holds `sectors`, as QEMU looks for it: disks grow to what it covers. Null where only the
 * largest one would do, which tells nothing of the size, or where there are no sectors at all.
 */
export function coveringGeometry(sectors: number): DiskGeometry | null {
  if (sectors === 0 || sectors > MAX_CHS_SECTORS) return null;
  let geometry = geometryOf(sectors);
  for (let more = 1; geometrySectors(geometry) < sectors; more += 1) geometry = geometryOf(sectors + more);
  return geometrySectors(geometry) === MAX_CHS_SECTORS ? null : geometry;
}
