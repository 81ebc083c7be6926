import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import { type AnyOptionValues, defineOptions } from '../../core/options.ts';
import {
  InUse,
  MAX_ENTRIES,
  MAX_TRACKS,
  nextCluster,
  type ParallelsHeader,
  parallelsGeometry,
  SECTOR,
} from '../../layouts/parallels/index.ts';

const DEFAULT_CLUSTER_SIZE = 1024 * 1024;

/** The keys of `-o` in the order of `-o help`. */
export const parallelsCreateOptions = defineOptions({
  cluster_size: { type: 'size', help: 'Parallels image cluster size', default: DEFAULT_CLUSTER_SIZE },
  size: { type: 'size', help: 'Virtual disk size' },
});

/** The keys of the line `Formatting …`, in its order; those of the protocol follow. */
export const parallelsFormattingOrder = ['size', 'cluster_size'] as const;

/** The geometry that QEMU gives every disk; guests don't look at it. */
const HEADS = 16;
const SECTORS_PER_TRACK = 32;

/**
 * The header of a new image without clusters, of the extended kind; an `invalid` ImageError in qemu-img's words for
 * what can't be. QEMU makes images with larger BATs and clusters than it opens; here they are refused.
 */
export function newParallelsHeader(options: AnyOptionValues, size: number): ParallelsHeader {
  const tracks = alignUp(Number(options.cluster_size ?? DEFAULT_CLUSTER_SIZE), SECTOR) / SECTOR;
  const sectors = alignUp(size, SECTOR) / SECTOR;
  const entries = tracks === 0 ? Number.POSITIVE_INFINITY : Math.ceil(sectors / tracks);
  if (entries > MAX_ENTRIES) throw invalid('Image size is too large for this cluster size');
  if (tracks > MAX_TRACKS) throw invalid('Cluster size is too large');
  const header: ParallelsHeader = {
    extended: true,
    heads: HEADS,
    cylinders: Math.floor(sectors / HEADS / SECTORS_PER_TRACK) % 2 ** 32,
    tracks,
    entries,
    sectors,
    inUse: InUse.no,
    dataSector: 0,
    flags: 0,
    extensionSector: 0,
  };
  const geometry = parallelsGeometry(header);
  return { ...header, dataSector: nextCluster(geometry.batEnd, header, geometry) / SECTOR };
}

function invalid(message: string): ImageError {
  return new ImageError('invalid', message, { format: 'parallels', operation: 'create' });
}
