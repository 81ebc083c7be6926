import { alignUp } from '../../core/binary.ts';
import { HEADER_BYTES, type ParallelsHeader, SECTOR } from './header.ts';

/** Bytes of a BAT entry: 0, or where the cluster lies (parallels.txt, "BAT"). */
export const BAT_ENTRY_BYTES = 4;
export const UNALLOCATED = 0;
const MAX_BAT_ENTRY = 0xffff_ffff;

/** Sizes and places that follow from the header. Bytes. */
export interface ParallelsGeometry {
  clusterSize: number;
  /** What a BAT entry counts. */
  entryUnit: number;
  /** The header and the BAT end here. */
  batEnd: number;
  /** Where the data area begins. */
  dataStart: number;
}

export function parallelsGeometry(header: ParallelsHeader): ParallelsGeometry {
  const clusterSize = header.tracks * SECTOR;
  const batEnd = HEADER_BYTES + header.entries * BAT_ENTRY_BYTES;
  return {
    clusterSize,
    entryUnit: header.extended ? clusterSize : SECTOR,
    batEnd,
    dataStart: header.dataSector === 0 ? alignUp(batEnd, SECTOR) : header.dataSector * SECTOR,
  };
}

/** Host offset of the cluster of entry `index`; 0: not allocated. */
export function readBatEntry(bytes: Buffer, index: number, { entryUnit }: ParallelsGeometry): number {
  return bytes.readUInt32LE(index * BAT_ENTRY_BYTES) * entryUnit;
}

/** Writes the entry for a cluster at `host` (0: none), a place that `nextCluster` gave. */
export function writeBatEntry(bytes: Buffer, index: number, host: number, { entryUnit }: ParallelsGeometry): void {
  bytes.writeUInt32LE(host / entryUnit, index * BAT_ENTRY_BYTES);
}

/**
 * The first offset at or behind `end` where a cluster can lie: entries of new images count clusters; in old ones the
 * distance to the data area is a multiple of clusters.
 */
export function nextCluster(end: number, { extended }: ParallelsHeader, geometry: ParallelsGeometry): number {
  const { clusterSize, dataStart } = geometry;
  const from = Math.max(end, dataStart);
  return extended ? alignUp(from, clusterSize) : dataStart + alignUp(from - dataStart, clusterSize);
}

/** Clusters must begin at or before this, so that an entry can tell their place. */
export function lastCluster({ entryUnit }: ParallelsGeometry): number {
  return MAX_BAT_ENTRY * entryUnit;
}
