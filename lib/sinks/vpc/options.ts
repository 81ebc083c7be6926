import { ImageError } from '../../core/errors.ts';
import { type AnyOptionValues, defineOptions } from '../../core/options.ts';
import {
  coveringGeometry,
  type DiskGeometry,
  geometrySectors,
  MAX_GEOMETRY,
  MAX_SECTORS,
  QEMU_CREATOR,
  SECTOR,
} from '../../layouts/vpc/index.ts';

/** The keys of `-o`. What QEMU checks only while it creates is a string here (see qcow2CreateOptions). */
export const vpcCreateOptions = defineOptions({
  force_size: {
    type: 'bool',
    help:
      'Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based ' +
      'calculation',
  },
  size: { type: 'size', help: 'Virtual disk size' },
  subformat: {
    type: 'string',
    help: 'Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ',
  },
});

/** The keys of the line `Formatting …`, in its order; those of the protocol follow. */
export const vpcFormattingOrder = ['size', 'subformat', 'force_size'];

/** What the options of a new image say. */
export interface VpcSettings {
  fixed: boolean;
  forceSize: boolean;
}

/** How large a new disk becomes, and how it says so. */
export interface DiskShape {
  /** Bytes. */
  size: number;
  geometry: DiskGeometry;
  creator: string;
}

const SUBFORMATS: readonly unknown[] = ['dynamic', 'fixed'];

export function checkSettings({ subformat = 'dynamic', force_size = false }: AnyOptionValues): VpcSettings {
  if (!SUBFORMATS.includes(subformat)) {
    throw new ImageError('invalid', `Parameter 'subformat' does not accept value '${subformat}'`, {
      format: 'vpc',
      operation: 'create',
    });
  }
  return { fixed: subformat === 'fixed', forceSize: force_size === true };
}

/**
 * The disk for so many bytes. Readers compute the size from the geometry, so it grows to the next one that there is;
 * with `force_size`, or where it is larger than any geometry, it is told apart, and is in whole sectors only.
 */
export function shapeOf(bytes: number, { forceSize }: VpcSettings): DiskShape {
  const sectors = Math.ceil(bytes / SECTOR);
  if (sectors > MAX_SECTORS) {
    throw new ImageError('invalid', 'Disk size is too large, max size is 2040 GiB', {
      format: 'vpc',
      operation: 'create',
      code: 'EFBIG',
    });
  }
  if (forceSize) return { size: sectors * SECTOR, geometry: MAX_GEOMETRY, creator: QEMU_CREATOR.currentSize };
  const creator = QEMU_CREATOR.chs;
  if (sectors === 0) return { size: 0, geometry: { cylinders: 0, heads: 0, sectorsPerTrack: 0 }, creator };
  const geometry = coveringGeometry(sectors);
  if (geometry === null) return { size: sectors * SECTOR, geometry: MAX_GEOMETRY, creator };
  return { size: geometrySectors(geometry) * SECTOR, geometry, creator };
}
