import { ensure, ImageError } from '../../core/errors.ts';
import {
  decodeCompressed,
  decodeOffset,
  isCompressed,
  QCOW_HEADER,
  type QcowGeometry,
  type QcowHeader,
  TABLE_ENTRY,
} from '../../layouts/qcow.ts';
import { Block } from '../block-table.ts';
import type { TableShape } from '../cached-tables.ts';
import type { FirstTable } from './first-table.ts';

const SECTOR = 512;

export interface QcowTables {
  header: QcowHeader;
  geometry: QcowGeometry;
  l1: FirstTable;
  /** First byte behind all that is in the file, or will be. */
  end(): number;
}

/** The L2 tables: each is a page, and the L1 table tells where it lies. */
export function qcowShape({ header, geometry, l1, end }: QcowTables): TableShape {
  const { clusterBits, clusterSize, l2Entries, l1Entries } = geometry;
  const l2Bytes = l2Entries * TABLE_ENTRY;
  const tableEnd = header.l1Offset + l1Entries * TABLE_ENTRY;
  // Header and L1 table: whatever is written to a cluster must not change them.
  const inHead = (offset: number, length: number) =>
    offset < QCOW_HEADER || (offset < tableEnd && offset + length > header.l1Offset);
  const outside = (offset: number, length: number, what: string) => {
    if (!inHead(offset, length)) return offset;
    throw new ImageError('corrupt', `${what} offset 0x${offset.toString(16)} lies in the header or the L1 table`, {
      offset,
    });
  };
  return {
    blocks: geometry.clusters,
    pageEntries: l2Entries,
    entrySize: TABLE_ENTRY,
    pageOffset(page) {
      const entry = l1.find(page);
      const offset = entry === null ? 0 : decodeOffset(entry.chunk, entry.at, 'L2 table');
      if (offset === 0) return -1;
      if (offset + l2Bytes > end()) {
        throw new ImageError('corrupt', 'An L2 table lies past the end of the file', { offset });
      }
      return outside(offset, l2Bytes, 'L2 table');
    },
    decode(bytes, index) {
      const at = index * TABLE_ENTRY;
      if (isCompressed(bytes, at)) return Block.packed;
      const offset = decodeOffset(bytes, at, 'Cluster');
      if (offset === 0) return Block.unallocated;
      ensure(offset % SECTOR === 0, `Cluster offset 0x${offset.toString(16)} is unaligned`, { offset });
      return outside(offset, clusterSize, 'Cluster');
    },
    packed: (bytes, index) => decodeCompressed(bytes, index * TABLE_ENTRY, clusterBits),
  };
}
