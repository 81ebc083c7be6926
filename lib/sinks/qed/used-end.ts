import {
  ENTRY_BYTES,
  headerBytes,
  isClusterPlace,
  isTablePlace,
  type QedHeader,
  qedGeometry,
  readEntry,
  UNALLOCATED,
  ZERO,
} from '../../layouts/qed/index.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';

/** Tables are read in pieces of at most this many bytes. */
const PIECE_BYTES = 1024 * 1024;

/**
 * The end of the last cluster that the image uses: where a device, which has no end of its own, has free space.
 * `l1`: the L1 table, as far as the disk needs it.
 */
export async function usedEnd(storage: Storage, header: QedHeader, l1: Buffer): Promise<number> {
  const { tableBytes } = qedGeometry(header);
  const piece = Buffer.alloc(Math.min(PIECE_BYTES, tableBytes));
  let end = Math.max(headerBytes(header), header.l1Offset + tableBytes);
  for (let index = 0; index * ENTRY_BYTES < l1.length; index += 1) {
    const table = readEntry(l1, index);
    if (table === UNALLOCATED || !isTablePlace(header, table, storage.size)) continue;
    end = Math.max(end, table + tableBytes);
    for (let at = 0; at < tableBytes; at += piece.length) {
      await readPadded(storage, table + at, piece);
      for (let entry = 0; entry * ENTRY_BYTES < piece.length; entry += 1) {
        const host = readEntry(piece, entry);
        if (host > ZERO && isClusterPlace(header, host, storage.size)) end = Math.max(end, host + header.clusterSize);
      }
    }
  }
  return end;
}
