import { ensure } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  decodeBitmapDirectory,
  decodeBitmapsExtension,
  decodeBitmapTableEntry,
  decodeL1Entry,
  decodeSnapshotTable,
  ExtensionType,
  findExtension,
  Incompatible,
  isCopied,
  MAX_SNAPSHOT_TABLE_BYTES,
  SNAPSHOT_FIXED,
  snapshotEntryLength,
} from '../../layouts/qcow2/index.ts';
import { readPadded } from '../../storage/storage.ts';
import { readCluster } from './cluster.ts';
import type { Qcow2Image } from './image.ts';
import { correctRefcounts } from './refcount-correct.ts';

const traceRebuild = tracePoint('qcow2_rebuild_refcounts');

/**
 * References to each host cluster, found by walking all that the header leads to. Kept in chunks that are
 * made as they are needed, so that memory follows what is used of the file.
 */
class ReferenceCounts {
  readonly #chunks = new Map<number, Uint32Array>();
  readonly #clusterSize: number;
  readonly #end: number;
  readonly #file: string;

  constructor({ clusterSize, end, file }: { clusterSize: number; end: number; file: string }) {
    this.#clusterSize = clusterSize;
    this.#end = end;
    this.#file = file;
  }

  /** Counts a reference to each cluster that [offset, offset + bytes) touches. */
  add(offset: number, bytes: number): void {
    ensure(offset + bytes <= this.#end, 'A reference leads past the end of the file', {
      file: this.#file,
      format: 'qcow2',
      offset,
    });
    const end = Math.ceil((offset + bytes) / this.#clusterSize);
    for (let cluster = Math.floor(offset / this.#clusterSize); cluster < end; cluster += 1) {
      const index = Math.floor(cluster / CHUNK);
      let chunk = this.#chunks.get(index);
      if (chunk === undefined) {
        chunk = new Uint32Array(CHUNK);
        this.#chunks.set(index, chunk);
      }
      chunk[cluster % CHUNK] += 1;
    }
  }

  get(cluster: number): number {
    return this.#chunks.get(Math.floor(cluster / CHUNK))?.[cluster % CHUNK] ?? 0;
  }
}

const CHUNK = 16384;

/**
 * Repairs the refcounts of an image whose dirty bit says that they were not written ("incompatible
 * features", bit 0), and clears the bit. All of it happens before anything else is written.
 */
export async function rebuildRefcounts(image: Qcow2Image): Promise<void> {
  const { storage, geometry, header } = image;
  const { clusterSize } = geometry;
  const end = Math.ceil(storage.size / clusterSize) * clusterSize;
  const counts = new ReferenceCounts({ clusterSize, end, file: storage.name });
  counts.add(0, clusterSize);
  counts.add(header.refcountTableOffset, image.refcounts.blocks.table.length);
  const blocks = new Set<number>();
  for (const offset of image.refcounts.blocks.offsets()) {
    refuseTwice(image, blocks, offset);
    counts.add(offset, clusterSize);
  }
  await countTables(image, counts, { l1: image.l1, offset: header.l1Offset });
  await countSnapshots(image, counts);
  await countBitmaps(image, counts);
  await image.metadata.run(async () => {
    const changed = await correctRefcounts(image, {
      clusters: end / clusterSize,
      countOf: (cluster) => counts.get(cluster),
    });
    if (traceRebuild.enabled) traceRebuild.emit({ file: storage.name, changed });
    await correctCopied(image, counts);
    await image.commit();
    await storage.flush();
    header.incompatible &= ~Incompatible.dirty;
    await image.writeHeader();
    await storage.flush();
  });
}

async function countTables(
  image: Qcow2Image,
  counts: ReferenceCounts,
  { l1, offset }: { l1: Buffer; offset: number },
): Promise<void> {
  const { clusterSize, l2Entries } = image.geometry;
  if (l1.length > 0) counts.add(offset, l1.length);
  const seen = new Set<number>();
  for (let at = 0; at < l1.length; at += 8) {
    const table = decodeL1Entry(l1, at, clusterSize);
    if (table.offset === 0) continue;
    // A small file could keep the walk busy for hours with one table that is everywhere.
    refuseTwice(image, seen, table.offset);
    counts.add(table.offset, clusterSize);
    const [bytes] = await image.metadata.run(() => image.loadTables([table.offset]));
    for (let index = 0; index < l2Entries; index += 1) {
      const state = readCluster(image, bytes, index);
      if (state.host < 0 || image.external) continue;
      counts.add(state.host, state.compressedLength > 0 ? compressedBytes(image, state) : clusterSize);
    }
  }
}

function refuseTwice(image: Qcow2Image, seen: Set<number>, offset: number): void {
  ensure(!seen.has(offset), 'Two entries of one table refer to the same table', {
    file: image.storage.name,
    format: 'qcow2',
    offset,
  });
  seen.add(offset);
}

/** The last sector of a compressed cluster may reach past the end of the file, but its cluster doesn't. */
function compressedBytes(image: Qcow2Image, state: { host: number; compressedLength: number }): number {
  const { clusterSize } = image.geometry;
  const end = Math.ceil(image.storage.size / clusterSize) * clusterSize;
  return Math.min(state.compressedLength, Math.max(1, end - state.host));
}

async function countSnapshots(image: Qcow2Image, counts: ReferenceCounts): Promise<void> {
  const { header, storage, geometry } = image;
  if (header.snapshotCount === 0) return;
  const bytes = Math.min(MAX_SNAPSHOT_TABLE_BYTES, Math.max(0, storage.size - header.snapshotsOffset));
  const table = Buffer.alloc(Math.min(bytes, header.snapshotCount * (SNAPSHOT_FIXED + 2 * 65536)));
  await readPadded(storage, header.snapshotsOffset, table);
  const entries = decodeSnapshotTable(table, header.snapshotCount);
  let length = 0;
  for (let index = 0; index < entries.length; index += 1) length += snapshotEntryLength(table, length);
  counts.add(header.snapshotsOffset, length);
  const seen = new Set<number>();
  for (const { l1Offset, l1Entries } of entries) {
    if (l1Entries > 0) refuseTwice(image, seen, l1Offset);
    ensure(l1Offset + l1Entries * 8 <= storage.size + geometry.clusterSize, "A snapshot's L1 table is cut off", {
      file: storage.name,
      format: 'qcow2',
      offset: l1Offset,
    });
    const l1 = Buffer.alloc(l1Entries * 8);
    await readPadded(storage, l1Offset, l1);
    await countTables(image, counts, { l1, offset: l1Offset });
  }
}

async function countBitmaps(image: Qcow2Image, counts: ReferenceCounts): Promise<void> {
  const { storage, geometry } = image;
  const data = findExtension(image.tail.extensions, ExtensionType.bitmaps);
  if (data === null) return;
  const { count, directoryBytes, directoryOffset } = decodeBitmapsExtension(data);
  counts.add(directoryOffset, directoryBytes);
  const directory = Buffer.alloc(directoryBytes);
  await readPadded(storage, directoryOffset, directory);
  for (const { tableOffset, tableEntries, granularityBits } of decodeBitmapDirectory(directory, count)) {
    const bytes = Math.ceil(image.header.size / 2 ** granularityBits / 8);
    ensure(tableEntries <= Math.ceil(bytes / geometry.clusterSize), 'A bitmap is larger than its disk', {
      file: storage.name,
      format: 'qcow2',
      offset: tableOffset,
    });
    counts.add(tableOffset, tableEntries * 8);
    const table = Buffer.alloc(tableEntries * 8);
    await readPadded(storage, tableOffset, table);
    for (let index = 0; index < tableEntries; index += 1) {
      const { offset } = decodeBitmapTableEntry(table, index, geometry.clusterSize);
      if (offset !== 0) counts.add(offset, geometry.clusterSize);
    }
  }
}

/** A copied flag on a cluster that is shared would let a write destroy a snapshot. */
async function correctCopied(image: Qcow2Image, counts: ReferenceCounts): Promise<void> {
  const { clusterSize, l2Entries, l2EntrySize } = image.geometry;
  for (let l1Index = 0; l1Index < image.l1.length / 8; l1Index += 1) {
    const { offset, copied } = decodeL1Entry(image.l1, l1Index * 8, clusterSize);
    if (offset === 0) continue;
    if (copied !== (counts.get(offset / clusterSize) === 1)) image.setTableCopied(l1Index, !copied);
    const page = await image.table(l1Index);
    if (page === null) continue;
    try {
      for (let index = 0; index < l2Entries; index += 1) {
        const { host, compressedLength } = readCluster(image, page.bytes, index);
        if (host < 0 || compressedLength > 0 || image.external) continue;
        const at = index * l2EntrySize;
        const single = counts.get(host / clusterSize) === 1;
        if (isCopied(page.bytes.readUInt32BE(at)) === single) continue;
        page.bytes[at] ^= 0x80;
        page.dirty = true;
      }
    } finally {
      page.pins -= 1;
    }
  }
}
