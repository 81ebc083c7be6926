import { decodeL1Entry, encodeEntry, entryOffset, isCompressed, isCopied } from '../../../layouts/qcow2/index.ts';
import type { Page } from '../../pages.ts';
import type { Qcow2Image } from '../image.ts';
import { type NamedTable, tablesUnder, writeTables } from './references.ts';

/** The L1 table as a snapshot has it: nothing under it may be written in place. */
export function withoutCopied(image: Qcow2Image, l1: Buffer): Buffer {
  const shared = Buffer.from(l1);
  for (let at = 0; at < shared.length; at += 8) {
    const { offset, copied } = decodeL1Entry(shared, at, image.geometry.clusterSize);
    if (copied) encodeEntry(shared, at, offset);
  }
  return shared;
}

/** Clears the copied flags in all L2 tables under the L1 table: everything there is shared now. */
export async function clearCopied(image: Qcow2Image, l1: Buffer): Promise<void> {
  const { l2Entries, l2EntrySize } = image.geometry;
  for await (const tables of tablesUnder(image, l1)) {
    const changed = tables.filter(({ bytes }) => {
      let cleared = false;
      for (let index = 0; index < l2Entries; index += 1) {
        const at = index * l2EntrySize;
        if (bytes[at] < 0x80) continue;
        bytes[at] &= 0x7f;
        cleared = true;
      }
      return cleared;
    });
    await writeTables(image, changed);
  }
}

/**
 * Sets the copied flags under the active L1 table where a refcount is one by now. Tables that are still shared are passed over:
 * so is everything under them.
 */
export async function restoreCopied(image: Qcow2Image): Promise<void> {
  const single = async (offset: number, l1Index: number): Promise<boolean> => {
    const alone = (await image.refcounts.get(offset)) === 1;
    if (alone !== image.activeL1.entry(l1Index).copied) image.activeL1.set(l1Index, offset, alone);
    return alone;
  };
  for await (const tables of tablesUnder(image, image.l1, single)) {
    const changed: NamedTable[] = [];
    for (const table of tables) if (await markCopied(image, table)) changed.push(table);
    await writeTables(image, changed);
  }
}

async function markCopied(image: Qcow2Image, { bytes }: NamedTable): Promise<boolean> {
  const { l2Entries, l2EntrySize, clusterSize } = image.geometry;
  const { blocks } = image.refcounts;
  let page: Page | null = null;
  let block = -1;
  let marked = false;
  for (let index = 0; index < l2Entries; index += 1) {
    const at = index * l2EntrySize;
    const high = bytes.readUInt32BE(at);
    const offset = entryOffset(high, bytes.readUInt32BE(at + 4));
    if (offset === 0 || isCompressed(high) || isCopied(high)) continue;
    const cluster = offset / clusterSize;
    if (blocks.indexOf(cluster) !== block) {
      block = blocks.indexOf(cluster);
      page = await blocks.at(cluster);
    }
    if (page === null || blocks.count(page, cluster) !== 1) continue;
    bytes[at] |= 0x80;
    marked = true;
  }
  return marked;
}
