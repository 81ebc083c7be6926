import { ensure } from '../../core/errors.ts';
import { Incompatible, MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES, MAX_SNAPSHOTS, SUBCLUSTERS } from './constants.ts';
import type { Qcow2Header } from './header.ts';

/** Sizes that follow from the header. Bytes, unless the name says entries or bits. */
export interface Qcow2Geometry {
  clusterBits: number;
  clusterSize: number;
  /** L2 entries are 16 bytes long and have a subcluster bitmap. */
  extendedL2: boolean;
  l2EntrySize: 8 | 16;
  /** Entries of one L2 table, which takes one cluster. */
  l2Entries: number;
  /** Guest bytes under one L2 table, that is under one L1 entry. */
  l2Coverage: number;
  /** `clusterSize` without extended L2 entries. */
  subclusterSize: number;
  refcountBits: number;
  /** Entries of one refcount block, which takes one cluster. */
  refcountsPerBlock: number;
}

export function geometryOf(header: Pick<Qcow2Header, 'clusterBits' | 'incompatible' | 'refcountOrder'>): Qcow2Geometry {
  const clusterSize = 2 ** header.clusterBits;
  const extendedL2 = (header.incompatible & Incompatible.extendedL2) !== 0n;
  const l2EntrySize = extendedL2 ? 16 : 8;
  const l2Entries = clusterSize / l2EntrySize;
  const refcountBits = 2 ** header.refcountOrder;
  return {
    clusterBits: header.clusterBits,
    clusterSize,
    extendedL2,
    l2EntrySize,
    l2Entries,
    l2Coverage: l2Entries * clusterSize,
    subclusterSize: extendedL2 ? clusterSize / SUBCLUSTERS : clusterSize,
    refcountBits,
    refcountsPerBlock: (clusterSize * 8) / refcountBits,
  };
}

/** L1 entries that a disk of `size` bytes needs. */
export function l1EntriesFor(size: number, geometry: Qcow2Geometry): number {
  return Math.ceil(size / geometry.l2Coverage);
}

/**
 * Checks the places of the header's tables: aligned, within QEMU's limits, and large enough. The
 * file's length bounds them too, since tables past the end can't be read. `forCheck` does without a refcount table,
 * which a check makes anew.
 */
export function checkTables(header: Qcow2Header, { forCheck = false } = {}): void {
  const geometry = geometryOf(header);
  ensure(forCheck || header.refcountTableClusters > 0, 'Image does not contain a reference count table', {
    offset: 56,
  });
  checkRefcountTable(header, geometry);
  ensure(header.snapshotCount <= MAX_SNAPSHOTS, 'Snapshot table too large', { offset: 60 });
  if (header.snapshotCount > 0) {
    ensure(isAligned(header.snapshotsOffset, geometry), 'Snapshot table offset invalid', { offset: 64 });
  }
  ensure(header.l1Entries * 8 <= MAX_L1_BYTES, 'Active L1 table too large', { offset: 36 });
  ensure(l1EntriesFor(header.size, geometry) * 8 <= MAX_L1_BYTES, 'Image is too big', { offset: 24 });
  ensure(header.l1Entries >= l1EntriesFor(header.size, geometry), 'L1 table is too small', { offset: 36 });
  if (header.l1Entries > 0) {
    ensure(isAligned(header.l1Offset, geometry), 'Active L1 table offset invalid', { offset: 40 });
  }
}

function checkRefcountTable(header: Qcow2Header, geometry: Qcow2Geometry): void {
  ensure(
    header.refcountTableClusters * geometry.clusterSize <= MAX_REFCOUNT_TABLE_BYTES,
    'Reference count table too large',
    { offset: 56 },
  );
  ensure(isAligned(header.refcountTableOffset, geometry), 'Reference count table offset invalid', { offset: 48 });
}

function isAligned(offset: number, geometry: Qcow2Geometry): boolean {
  return offset % geometry.clusterSize === 0;
}
