import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  ENTRY_BYTES,
  encodeQedHeader,
  Feature,
  headerBytes,
  isClusterPlace,
  isTablePlace,
  type QedHeader,
  qedGeometry,
  readEntry,
  UNALLOCATED,
  writeEntry,
  ZERO,
} from '../../layouts/qed/index.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';

/** The parts of an open image that a check looks at. */
export interface CheckedImage {
  storage: Storage;
  header: QedHeader;
  /** Corrected in place. */
  l1: Buffer;
}

/** Tables are read in pieces of at most this many bytes. */
const PIECE_BYTES = 1024 * 1024;
/** For the map of used clusters: one bit each, so this is a file of 32 TiB with clusters of 64 KiB. */
const MAX_MAP_BYTES = 64 * 1024 * 1024;

const traceCheck = tracePoint('qed_check');

/**
 * What the need-check bit asks for (qed_spec.txt, "Consistency checking"): entries that point nowhere become
 * unallocated, as QEMU makes them. Clusters that are used twice can't be told apart, and whoever wrote to one would
 * change the other: such an image is refused. All is looked at before anything is changed. The bit is cleared at the
 * end.
 */
export async function repairQed(image: CheckedImage): Promise<void> {
  const wrong = await scan(image, null);
  if (traceCheck.enabled) traceCheck.emit({ file: image.storage.name, wrong });
  const { storage, header, l1 } = image;
  if (wrong > 0) {
    await scan(image, storage);
    await storage.write(header.l1Offset, l1);
    await storage.flush();
  }
  header.features &= ~Feature.needCheck;
  await storage.write(0, encodeQedHeader(header));
  await storage.flush();
}

/** The end of the last cluster that the image uses: where a device, which has no end of its own, has free space. */
export async function usedEnd({ storage, header, l1 }: CheckedImage): Promise<number> {
  const { tableBytes } = qedGeometry(header);
  let end = Math.max(headerBytes(header), header.l1Offset + tableBytes);
  for (let index = 0; index * ENTRY_BYTES < l1.length; index += 1) {
    const table = readEntry(l1, index);
    if (table === UNALLOCATED || !isTablePlace(header, table, storage.size)) continue;
    end = Math.max(end, table + tableBytes);
    await eachPiece({ storage, header, l1 }, table, (piece) => {
      for (let entry = 0; entry * ENTRY_BYTES < piece.length; entry += 1) {
        const host = readEntry(piece, entry);
        if (host > ZERO && isClusterPlace(header, host, storage.size)) end = Math.max(end, host + header.clusterSize);
      }
      return false;
    });
  }
  return end;
}

/** Counts wrong entries; with `fix`, corrects them there and in `l1`. */
async function scan(image: CheckedImage, fix: Storage | null): Promise<number> {
  const { storage, header, l1 } = image;
  const used = new UsedClusters(storage, header);
  used.take(header.l1Offset, header.tableClusters);
  let wrong = 0;
  for (let index = 0; index * ENTRY_BYTES < l1.length; index += 1) {
    const table = readEntry(l1, index);
    if (table === UNALLOCATED) continue;
    if (!isTablePlace(header, table, storage.size)) {
      wrong += 1;
      if (fix !== null) writeEntry(l1, index, UNALLOCATED);
      continue;
    }
    used.take(table, header.tableClusters);
    wrong += await scanTable(image, table, { fix, used });
  }
  return wrong;
}

async function scanTable(
  image: CheckedImage,
  table: number,
  { fix, used }: { fix: Storage | null; used: UsedClusters },
): Promise<number> {
  const { header, storage } = image;
  let wrong = 0;
  await eachPiece(image, table, (piece) => {
    let changed = false;
    for (let index = 0; index * ENTRY_BYTES < piece.length; index += 1) {
      const host = readEntry(piece, index);
      if (host === UNALLOCATED || host === ZERO) continue;
      if (isClusterPlace(header, host, storage.size)) {
        used.take(host, 1);
        continue;
      }
      wrong += 1;
      writeEntry(piece, index, UNALLOCATED);
      changed = fix !== null;
    }
    return changed;
  });
  return wrong;
}

/** Shows a table piece by piece, and writes back those that were changed (`use` returns true). */
async function eachPiece(
  { storage, header }: CheckedImage,
  table: number,
  use: (piece: Buffer) => boolean,
): Promise<void> {
  const { tableBytes } = qedGeometry(header);
  const piece = Buffer.alloc(Math.min(PIECE_BYTES, tableBytes));
  for (let at = 0; at < tableBytes; at += piece.length) {
    await readPadded(storage, table + at, piece);
    if (use(piece)) await storage.write(table + at, piece);
  }
}

/** One bit for each cluster of the file. */
class UsedClusters {
  readonly #file: string;
  readonly #clusterSize: number;
  readonly #bits: Buffer;

  constructor(storage: Storage, { clusterSize }: QedHeader) {
    this.#file = storage.name;
    this.#clusterSize = clusterSize;
    const bytes = Math.ceil(storage.size / clusterSize / 8);
    if (bytes > MAX_MAP_BYTES) {
      throw new ImageError('unsupported', 'The QED image needs a check, and is too large for it', {
        file: storage.name,
        format: 'qed',
      });
    }
    this.#bits = Buffer.alloc(bytes);
  }

  /** Notes that so many clusters are used; `corrupt` where one was used before. */
  take(offset: number, clusters: number): void {
    const first = offset / this.#clusterSize;
    for (let cluster = first; cluster < first + clusters; cluster += 1) {
      const at = Math.floor(cluster / 8);
      const bit = 1 << (cluster % 8);
      if ((this.#bits[at] & bit) !== 0) {
        throw new ImageError('corrupt', 'Clusters of the QED image are used twice; it cannot be opened read/write', {
          file: this.#file,
          format: 'qed',
          offset: cluster * this.#clusterSize,
        });
      }
      this.#bits[at] |= bit;
    }
  }
}
