import { createHash } from 'node:crypto';
import { ensure, ImageError } from '../../core/errors.ts';
import {
  BITMAP_ENTRY_BYTES,
  BITMAP_HEAD_BYTES,
  BitmapEntry,
  type BitmapHead,
  checkFeature,
  decodeBitmapHead,
  decodeExtensionHead,
  decodeFeatureHead,
  EXTENSION_HEAD_BYTES,
  FEATURE_HEAD_BYTES,
  type FeatureHead,
  FeatureMagic,
  type ParallelsHeader,
  parallelsGeometry,
  SECTOR,
} from '../../layouts/parallels/index.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';

/** A dirty bitmap of the Format Extension. */
export interface ParallelsBitmap extends BitmapHead {
  /** Host offset of its L1 table. */
  l1Offset: number;
}

/** The cluster that holds the extension may have 2 GiB: it is looked at in pieces. */
const PIECE_BYTES = 1024 * 1024;
/** No product makes nearly as many. */
const MAX_BITMAPS = 65535;

/**
 * Reads and checks the Format Extension. `corrupt` or `unsupported` errors in QEMU's words, which opens no image for
 * reading whose extension it does not understand.
 */
export async function readBitmaps(storage: Storage, header: ParallelsHeader): Promise<ParallelsBitmap[]> {
  if (header.extensionSector === 0) return [];
  await checkSum(storage, header);
  const bitmaps = new Map<string, ParallelsBitmap>();
  for await (const { head, offset, room } of features(storage, header)) {
    checkFeature(head, room);
    const bytes = Buffer.alloc(BITMAP_HEAD_BYTES);
    await readPadded(storage, offset, bytes);
    const { clusterSize } = parallelsGeometry(header);
    const bitmap = decodeBitmapHead(bytes, { dataSize: head.dataSize, sectors: header.sectors, clusterSize });
    ensure(!bitmaps.has(bitmap.id), `Bitmap already exists: ${bitmap.id}`, { offset });
    ensure(bitmaps.size < MAX_BITMAPS, 'Too many bitmaps in the Format Extension', { offset });
    bitmaps.set(bitmap.id, { ...bitmap, l1Offset: offset + BITMAP_HEAD_BYTES });
  }
  return [...bitmaps.values()];
}

/**
 * Whether a feature forbids writers that don't keep it up to date ("necessary"), or wants to be kept as it is
 * ("transit"). A broken extension binds nobody: it is to be dropped.
 */
export async function hasBindingFeature(storage: Storage, header: ParallelsHeader): Promise<boolean> {
  try {
    await checkSum(storage, header);
    for await (const { head } of features(storage, header)) if (head.flags !== 0n) return true;
    return false;
  } catch (error) {
    if (error instanceof ImageError && error.kind === 'corrupt') return false;
    throw error;
  }
}

/** The feature sections up to the end mark; `offset` is that of their data. */
async function* features(
  storage: Storage,
  header: ParallelsHeader,
): AsyncGenerator<{ head: FeatureHead; offset: number; room: number }> {
  const start = extensionOffset(header);
  const end = start + parallelsGeometry(header).clusterSize;
  for (let at = start + EXTENSION_HEAD_BYTES; ; ) {
    ensure(at + FEATURE_HEAD_BYTES <= end, 'The Format Extension ends without its end mark', { offset: at });
    const bytes = Buffer.alloc(FEATURE_HEAD_BYTES);
    await readPadded(storage, at, bytes);
    const head = decodeFeatureHead(bytes);
    if (head.magic === FeatureMagic.end && head.flags === 0n) return;
    const offset = at + FEATURE_HEAD_BYTES;
    yield { head, offset, room: end - offset };
    at = offset + head.paddedSize;
  }
}

function extensionOffset({ extensionSector }: ParallelsHeader): number {
  const offset = extensionSector * SECTOR;
  ensure(Number.isSafeInteger(offset), 'The Format Extension lies past the end of any file', { offset: 56 });
  return offset;
}

async function checkSum(storage: Storage, header: ParallelsHeader): Promise<void> {
  const start = extensionOffset(header);
  const end = start + parallelsGeometry(header).clusterSize;
  const head = Buffer.alloc(EXTENSION_HEAD_BYTES);
  await readPadded(storage, start, head);
  const expected = decodeExtensionHead(head);
  const hash = createHash('md5');
  const piece = Buffer.alloc(Math.min(PIECE_BYTES, end - start));
  for (let at = start + EXTENSION_HEAD_BYTES; at < end; at += piece.length) {
    const part = piece.subarray(0, Math.min(piece.length, end - at));
    await readPadded(storage, at, part);
    hash.update(part);
  }
  ensure(hash.digest().equals(expected), 'Wrong checksum in Format Extension header. Format extension is corrupted.', {
    offset: start,
  });
}

/** A run of guest bytes that a bitmap calls dirty. */
export interface DirtyRange {
  offset: number;
  length: number;
}

/** The guest ranges that a bitmap calls dirty, ascending; neighbours may come apart. */
export async function* dirtyRanges(
  storage: Storage,
  header: ParallelsHeader,
  bitmap: ParallelsBitmap,
): AsyncGenerator<DirtyRange> {
  const { clusterSize } = parallelsGeometry(header);
  const size = header.sectors * SECTOR;
  const unit = bitmap.granularity * SECTOR;
  const entry = Buffer.alloc(BITMAP_ENTRY_BYTES);
  for (let index = 0; index < bitmap.l1Entries; index += 1) {
    await readPadded(storage, bitmap.l1Offset + index * BITMAP_ENTRY_BYTES, entry);
    const place = entry.readBigUInt64LE(0);
    const start = index * clusterSize * 8 * unit;
    const end = Math.min(size, start + clusterSize * 8 * unit);
    if (place === BitmapEntry.zeros) continue;
    if (place === BitmapEntry.ones) yield { offset: start, length: end - start };
    else yield* rangesOf(storage, { host: placeOf(place, storage), start, end, unit });
  }
}

function placeOf(sector: bigint, storage: Storage): number {
  const offset = Number(sector) * SECTOR;
  if (offset < storage.size) return offset;
  throw new ImageError('corrupt', 'A dirty bitmap lies past the end of the file', {
    file: storage.name,
    format: 'parallels',
  });
}

/** The ranges of the bits at `host`, which stand for guest bytes from `start` to `end`. */
async function* rangesOf(
  storage: Storage,
  { host, start, end, unit }: { host: number; start: number; end: number; unit: number },
): AsyncGenerator<DirtyRange> {
  const bits = Math.ceil((end - start) / unit);
  const piece = Buffer.alloc(Math.min(PIECE_BYTES, Math.ceil(bits / 8)));
  let from = -1;
  for (let bit = 0; bit < bits; bit += 1) {
    if (bit % (piece.length * 8) === 0) await readPadded(storage, host + bit / 8, piece);
    const within = bit % (piece.length * 8);
    const isDirty = ((piece[within >> 3] >> (within & 7)) & 1) === 1;
    if (isDirty && from < 0) from = bit;
    if (isDirty || from < 0) continue;
    yield { offset: start + from * unit, length: (bit - from) * unit };
    from = -1;
  }
  if (from >= 0) yield { offset: start + from * unit, length: end - (start + from * unit) };
}
