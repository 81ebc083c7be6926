import { ensure } from '../../core/errors.ts';
import { decodeMarker, decodeSparseHeader, MarkerType, SECTOR, type SparseHeader } from '../../layouts/vmdk/index.ts';
import type { Storage } from '../../storage/storage.ts';

/** Sectors at the file's end: the footer's marker, the footer, the end-of-stream marker. */
const FOOTER_SECTORS = 3;

/** Reads the copy of the header at the end of a stream-optimized extent, which knows where the grain directory came to lie. */
export async function readFooter(storage: Storage): Promise<SparseHeader> {
  const offset = storage.size - FOOTER_SECTORS * SECTOR;
  ensure(offset >= 0, 'The file is too short for a footer');
  const bytes = Buffer.alloc(FOOTER_SECTORS * SECTOR);
  await storage.read(offset, bytes);
  const footer = decodeMarker(bytes);
  const end = decodeMarker(bytes.subarray(2 * SECTOR));
  ensure(footer.kind === 'metadata' && footer.type === MarkerType.footer, 'The file does not end with a footer', {
    offset,
  });
  ensure(end.kind === 'metadata' && end.type === MarkerType.endOfStream, 'The file does not end with its stream', {
    offset: offset + 2 * SECTOR,
  });
  return decodeSparseHeader(bytes.subarray(SECTOR));
}
