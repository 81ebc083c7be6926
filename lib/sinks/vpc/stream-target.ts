import { ImageError } from '../../core/errors.ts';
import { isZero } from '../../core/pool.ts';
import type { Storage } from '../../storage/storage.ts';
import { ForwardTarget } from '../forward-target.ts';

/** What of the guest disk comes down the pipe. */
export interface StreamBlocks {
  blockSize: number;
  /** Goes before each block that is there; may be empty. */
  bitmap: Buffer;
  /** The last block is as long as the others, though the disk ends within it. */
  wholeBlocks: boolean;
  isThere(block: number): boolean;
}

export interface StreamParts {
  /** Guest bytes; null: the disk ends with the last byte that is written or zeroed. */
  size: number | null;
  blocks: StreamBlocks;
  /** Where the disk ends after all, and the footer. @param end where it ends as far as is known without `finish` */
  finish(end: number): { size: number; footer: Buffer };
}

/** A VHD into a pipe: blocks in guest order, zeros where nothing is written, the footer at the end. */
export class VpcStreamTarget extends ForwardTarget {
  readonly format = 'vpc';
  readonly #parts: StreamParts;

  constructor(storage: Storage, parts: StreamParts) {
    super(storage, parts.size);
    this.#parts = parts;
  }

  protected override async finish(): Promise<void> {
    const { size, footer } = this.#parts.finish(this.size);
    const { blockSize, wholeBlocks } = this.#parts.blocks;
    await this.fillTo(wholeBlocks ? Math.ceil(size / blockSize) * blockSize : size);
    await this.#append(footer);
  }

  /** As far as the bytes lie in blocks that are there. */
  protected override async put(start: number, end: number, bytes: Buffer | null): Promise<void> {
    const { blockSize, bitmap, isThere } = this.#parts.blocks;
    for (let at = start; at < end; ) {
      const block = Math.floor(at / blockSize);
      const stop = Math.min(end, (block + 1) * blockSize);
      const part = bytes === null ? null : bytes.subarray(at - start, stop - start);
      if (isThere(block)) {
        if (at === block * blockSize) await this.#append(bitmap);
        if (part === null) await this.storage.zero(this.storage.size, stop - at);
        else await this.#append(part);
      } else if (part !== null && !isZero(part)) {
        throw new ImageError('io', 'The input changed while it was read', { file: this.name, format: this.format });
      }
      at = stop;
    }
  }

  #append(bytes: Buffer): Promise<void> {
    return this.storage.write(this.storage.size, bytes);
  }
}
