import type { QedHeader } from './header.ts';

/** Bytes of an entry of an L1 or L2 table: a host offset, or one of these (qed_spec.txt, "Tables"). */
export const ENTRY_BYTES = 8;
export const UNALLOCATED = 0;
/** Data clusters only: reads as zeros. */
export const ZERO = 1;

const HALF = 0x1_0000_0000;

/** Sizes that follow from the header. */
export interface QedGeometry {
  /** Entries of a table. */
  tableEntries: number;
  /** Bytes of a table. */
  tableBytes: number;
  /** Guest bytes under one L2 table, that is under one L1 entry. */
  coverage: number;
}

export function qedGeometry({ clusterSize, tableClusters }: QedHeader): QedGeometry {
  const tableBytes = clusterSize * tableClusters;
  const tableEntries = tableBytes / ENTRY_BYTES;
  return { tableEntries, tableBytes, coverage: tableEntries * clusterSize };
}

/** L1 entries that a disk of `size` bytes needs: no more than 2 MiB of them for any disk below 2^53 bytes. */
export function l1EntriesFor(size: number, { coverage }: QedGeometry): number {
  return Math.ceil(size / coverage);
}

/** An entry as a number. What exceeds 2^53 loses its lowest bits, and is past the end of any file all the same. */
export function readEntry(table: Buffer, index: number): number {
  const at = index * ENTRY_BYTES;
  return table.readUInt32LE(at + 4) * HALF + table.readUInt32LE(at);
}

export function writeEntry(table: Buffer, index: number, entry: number): void {
  const at = index * ENTRY_BYTES;
  table.writeUInt32LE(entry % HALF, at);
  table.writeUInt32LE(Math.floor(entry / HALF), at + 4);
}
