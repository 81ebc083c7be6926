import { isAllocated, MAP_ENTRY, type VdiHeader } from '../../layouts/vdi.ts';
import type { Storage } from '../../storage/storage.ts';

const READ_BYTES = 1024 * 1024;

/**
 * Which of the file's blocks are in use: a bit for each. What lies behind the last one takes no memory until it is
 * used.
 */
export class UsedBlocks {
  readonly #count: number;
  readonly #bits: Buffer;
  /** All blocks below it are in use. */
  #low = 0;
  #top = 0;
  /** The number behind the highest one that lies above all that are given here. */
  #above = 0;

  /** @param count blocks that the image may have */
  constructor(count: number) {
    this.#count = count;
    this.#bits = Buffer.alloc(Math.ceil(count / 8));
  }

  /** The number behind the highest block in use. */
  get top(): number {
    return Math.max(this.#top, this.#above);
  }

  add(block: number): void {
    if (block >= this.#count) {
      this.#above = Math.max(this.#above, block + 1);
      return;
    }
    this.#bits[block >>> 3] |= 1 << (block & 7);
    this.#top = Math.max(this.#top, block + 1);
  }

  /**
   * Takes the first free blocks, `wanted` at the most, that lie next to each other. There is always one: a block map
   * has as many entries as there are numbers, and whoever asks has an entry without one.
   */
  take(wanted: number): { first: number; blocks: number } {
    while (this.#low < this.#count && this.#has(this.#low)) this.#low += 1;
    const first = this.#low;
    let blocks = 0;
    while (blocks < wanted && first + blocks < this.#count && !this.#has(first + blocks)) {
      this.add(first + blocks);
      blocks += 1;
    }
    return { first, blocks };
  }

  /** Gives blocks back that nothing refers to. */
  giveBack(first: number, blocks: number): void {
    for (let block = first; block < first + blocks; block += 1) this.#bits[block >>> 3] &= ~(1 << (block & 7));
    this.#low = Math.min(this.#low, first);
    while (this.#top > 0 && !this.#has(this.#top - 1)) this.#top -= 1;
  }

  #has(block: number): boolean {
    return (this.#bits[block >>> 3] & (1 << (block & 7))) !== 0;
  }
}

/**
 * Reads the whole block map for what it uses. The header's count does not tell it: a program that was killed may have
 * left blocks without a number, and numbers without a block.
 */
export async function findUsedBlocks(storage: Storage, { blocks, mapOffset }: VdiHeader): Promise<UsedBlocks> {
  const used = new UsedBlocks(blocks);
  const end = mapOffset + blocks * MAP_ENTRY;
  const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, end - mapOffset));
  for (let at = mapOffset; at < end; at += buffer.length) {
    const piece = buffer.subarray(0, Math.min(buffer.length, end - at));
    await storage.read(at, piece);
    for (let index = 0; index < piece.length; index += MAP_ENTRY) {
      const entry = piece.readUInt32LE(index);
      if (isAllocated(entry)) used.add(entry);
    }
  }
  return used;
}
