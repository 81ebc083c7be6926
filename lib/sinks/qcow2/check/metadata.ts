import type { CheckedImage } from './context.ts';

/** Offsets of refcount blocks, for the refcount table they are from. */
const blocksOf = new WeakMap<Buffer, Set<number>>();

/** Host offset of a refcount block, reserved bits left out; 0: none. The whole offset is exact: a multiple of 512. */
export function refcountBlockOffset(table: Buffer, index: number): number {
  const low = table.readUInt32BE(index * 8 + 4);
  return table.readUInt32BE(index * 8) * 0x1_0000_0000 + (low - (low & 0x1ff));
}

/**
 * Whether the cluster at `offset` holds what the image as a whole stands on: the header, the active L1 table, refcount
 * table or blocks. What claims to be an L2 table there must not be written to.
 */
export function overlapsMetadata(image: CheckedImage, offset: number): boolean {
  const { header, geometry, refcountTable } = image;
  const end = offset + geometry.clusterSize;
  const within = (start: number, bytes: number) => start < end && offset < start + bytes;
  if (offset < geometry.clusterSize || within(header.l1Offset, header.l1Entries * 8)) return true;
  if (within(header.refcountTableOffset, refcountTable.length)) return true;
  let blocks = blocksOf.get(refcountTable);
  if (blocks === undefined) {
    blocks = new Set<number>();
    for (let index = 0; index < refcountTable.length / 8; index += 1)
      blocks.add(refcountBlockOffset(refcountTable, index));
    blocksOf.set(refcountTable, blocks);
  }
  return blocks.has(offset);
}
