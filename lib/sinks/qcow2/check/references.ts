import { decodeBitmapTableEntry, ExtensionType, findExtension, MAX_L1_BYTES } from '../../../layouts/qcow2/index.ts';
import { type BitmapPlace, readBitmaps } from './bitmaps.ts';
import { type CheckedImage, type Fix, METADATA_PAGE_BITS } from './context.ts';
import { ClusterCounts } from './counts.ts';
import { refcountBlockOffset } from './refcount-table.ts';
import type { CheckedSnapshot, SnapshotTable } from './snapshots.ts';
import { TableWalk } from './walk.ts';

/** What refers to each host cluster. */
export interface References {
  counts: ClusterCounts;
  /** The refcount structure itself is wrong, so that it can't be corrected in place. */
  rebuild: boolean;
  /** L1 entries that refer to the table in a cluster. */
  tables: ClusterCounts;
  /** 1 for clusters of L2 tables in which something is wrong: they may well be no tables. */
  doubtful: ClusterCounts;
  /** Some entry of an L1 or L2 table has no copied flag. */
  uncopied: boolean;
}

/** A table of a bitmap is read in parts of this size. */
const TABLE_PART = 1024 * 1024;

/**
 * Counts all references to host clusters, beginning with the header, and says what is wrong on the way. `fix.errors`
 * corrects L2 entries and entries of the refcount table where that loses nothing.
 */
export async function countReferences(image: CheckedImage, snapshots: SnapshotTable, fix: Fix): Promise<References> {
  const { header, geometry } = image;
  const counts = new ClusterCounts();
  const walk = new TableWalk(image, counts, fix);
  image.renewBudget();
  image.dangling = new ClusterCounts();
  image.foundations = new ClusterCounts(METADATA_PAGE_BITS);
  image.fragmentation = { allocatedClusters: 0, fragmentedClusters: 0, compressedClusters: 0 };
  image.countFoundation(counts, 0, geometry.clusterSize);
  const active = { offset: header.l1Offset, entries: header.l1Entries };
  const places = snapshots.entries.filter((each) => whatIsWrong(image, each) === null).map(placeOf);
  for (const place of [active, ...places]) await walk.gather(place);
  await walk.walk(active, true);
  if (image.external && snapshots.entries.length > 0) {
    image.corrupt(`ERROR ${snapshots.entries.length} snapshots in image with data file`);
  }
  for (const snapshot of snapshots.entries) {
    const wrong = whatIsWrong(image, snapshot);
    if (wrong === null) await walk.walk(placeOf(snapshot), false);
    else image.corrupt(`ERROR snapshot ${snapshot.id} (${snapshot.name}) ${wrong}; snapshot table entry corrupted`);
  }
  image.countFoundation(counts, header.snapshotsOffset, snapshots.bytes);
  countEncryptionHeader(image, counts);
  for (const bitmap of await readBitmaps(image)) await countBitmap(image, counts, bitmap);
  // A refcount table behind the end of the file is replaced: nothing has to be kept free for it.
  const { dangling } = image;
  image.dangling = new ClusterCounts();
  image.countFoundation(counts, header.refcountTableOffset, image.refcountTable.length);
  image.dangling = dangling;
  const rebuild = await countRefcountBlocks(image, counts, fix);
  await walk.correctEntries();
  return { counts, rebuild, tables: walk.tables, doubtful: walk.doubtful, uncopied: walk.uncopied };
}

function placeOf({ l1Offset, l1Entries }: CheckedSnapshot): { offset: number; entries: number } {
  return { offset: l1Offset, entries: l1Entries };
}

function whatIsWrong({ geometry }: CheckedImage, { l1Offset, l1Entries }: CheckedSnapshot): string | null {
  if (l1Offset % geometry.clusterSize !== 0) {
    return `l1_offset=0x${l1Offset.toString(16)}: L1 table is not cluster aligned`;
  }
  return l1Entries * 8 > MAX_L1_BYTES ? `l1_size=0x${l1Entries.toString(16)}: L1 table is too large` : null;
}

/** Key slots of LUKS ("Full disk encryption header pointer"): offset and length. */
function countEncryptionHeader(image: CheckedImage, counts: ClusterCounts): void {
  const data = findExtension(image.tail.extensions, ExtensionType.encryption);
  if (data === null || data.length < 16) return;
  const [offset, length] = [data.readBigUInt64BE(0), data.readBigUInt64BE(8)];
  // What is larger than a number holds lies past the end of any file just as well.
  image.countFoundation(counts, Number(offset), Number(length));
}

async function countBitmap(image: CheckedImage, counts: ClusterCounts, bitmap: BitmapPlace): Promise<void> {
  const { clusterSize } = image.geometry;
  image.countFoundation(counts, bitmap.offset, bitmap.bytes);
  if (!bitmap.isTable) return;
  const end = Math.min(bitmap.offset + bitmap.bytes, image.storage.size);
  image.spend(Math.max(0, end - bitmap.offset));
  for (let at = bitmap.offset; at + 8 <= end; at += TABLE_PART) {
    const part = await image.readTable(at, Math.min(TABLE_PART, end - at));
    for (let index = 0; (index + 1) * 8 <= part.length; index += 1) {
      const { offset } = decodeBitmapTableEntry(part, index, clusterSize);
      if (offset !== 0) image.countFoundation(counts, offset, clusterSize);
    }
  }
}

/** @returns whether the table is wrong in a way that only another one can mend */
async function countRefcountBlocks(image: CheckedImage, counts: ClusterCounts, fix: Fix): Promise<boolean> {
  const { refcountTable: table, geometry, clusters } = image;
  const { clusterSize } = geometry;
  const outside: number[] = [];
  let rebuild = false;
  for (let index = 0; index < table.length / 8; index += 1) {
    const offset = refcountBlockOffset(table, index);
    const name = `refcount block ${index}`;
    if ((table[index * 8 + 7] | (table[index * 8 + 6] & 1)) !== 0) {
      image.corrupt(`ERROR refcount table entry ${index} has reserved bits set`);
      rebuild = true;
    } else if (offset % clusterSize !== 0) {
      image.corrupt(`ERROR ${name} is not cluster aligned; refcount table entry corrupted`);
      rebuild = true;
    } else if (offset / clusterSize >= clusters) {
      if (fix.errors) {
        image.report(`Repairing ${name} is outside image`);
        image.findings.corruptionsFixed += 1;
        outside.push(index);
      } else image.corrupt(`ERROR ${name} is outside image`);
    } else if (offset !== 0) {
      image.countFoundation(counts, offset, clusterSize);
      const found = counts.get(offset / clusterSize);
      if (found === 1) continue;
      image.corrupt(`ERROR ${name} refcount=${found}`);
      rebuild = true;
    }
  }
  return (await forgetBlocks(image, counts, outside)) || rebuild;
}

/**
 * Takes blocks outside the file out of the refcount table: nothing is counted there, and no block at all says the same.
 * @returns false where it is done; true where the table lies over something else, and another one is needed
 */
async function forgetBlocks(image: CheckedImage, counts: ClusterCounts, indexes: number[]): Promise<boolean> {
  const { refcountTable: table, storage, header, geometry } = image;
  const places = indexes.map((index) => header.refcountTableOffset + index * 8);
  for (const index of indexes) table.fill(0, index * 8, index * 8 + 8);
  if (places.length === 0) return false;
  if (!image.isInFile(header.refcountTableOffset, table.length)) return true;
  if (places.some((place) => counts.get(Math.floor(place / geometry.clusterSize)) !== 1)) return true;
  for (const place of places) await storage.write(place, Buffer.alloc(8));
  return false;
}
