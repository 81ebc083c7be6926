import type { ChunkReader, ChunkStream } from './chunks.ts';
import { Bzip2Block, OutOfBits } from './unpack-bzip2-block.ts';
import { cutOff, damaged, unsupportedPacking } from './unpack-error.ts';

/**
 * bzip2: `BZh` and the level, then blocks that begin with a magic of 48 bits at any bit, then another magic and the
 * checksum over all blocks, padded to a byte. Decoded here because the packages that do it hold the whole of a
 * block's contents as a list of numbers (half a gigabyte for a run of zeros).
 */
const MAX_LEVEL = 9;
const LEVEL_BYTES = 100_000;
const HEADER_BYTES = 4;
const BLOCK_MAGIC = 0x314159265359;
const END_MAGIC = 0x177245385090;
/** No block is longer packed: codes have 20 bits at the most, and the tables before them are small. */
const PACKED_BLOCK_BYTES = (level: number) => level * LEVEL_BYTES * 2.5 + 65536;

/** Unpacks bzip2 streams one after the other; checksums are verified. What follows the last is an error. */
export async function* bunzip2(reader: ChunkReader): ChunkStream {
  while (await reader.ensure(1)) {
    if (!(await reader.ensure(HEADER_BYTES))) throw cutOff('bzip2', reader);
    const [b, z, h, digit] = reader.take(HEADER_BYTES);
    const level = digit - 0x30;
    if (b !== 0x42 || z !== 0x5a || h !== 0x68 || level < 1 || level > MAX_LEVEL) throw damaged('bzip2', reader);
    yield* unpackStream(reader, level);
  }
}

async function* unpackStream(reader: ChunkReader, level: number): ChunkStream {
  const block = new Bzip2Block(level * LEVEL_BYTES);
  let bit = 0;
  let combined = 0;
  for (;;) {
    await reader.ensure(PACKED_BLOCK_BYTES(level));
    try {
      block.start(reader.view, bit);
      const magic = block.readMagic();
      if (magic === END_MAGIC) {
        const told = block.readChecksum();
        reader.take(Math.ceil(block.bitPosition / 8));
        if (told !== combined) throw damaged('bzip2', reader);
        return;
      }
      if (magic !== BLOCK_MAGIC) throw damaged('bzip2', reader);
      const told = block.readChecksum();
      if (block.isRandomised()) throw unsupportedPacking('The bzip2 stream on the input is of an obsolete kind');
      if (!block.decode()) throw damaged('bzip2', reader);
      reader.take(Math.floor(block.bitPosition / 8));
      bit = block.bitPosition % 8;
      for (const chunk of block.contents()) yield chunk;
      if (block.checksum !== told) throw damaged('bzip2', reader);
      combined = (((combined << 1) | (combined >>> 31)) ^ told) >>> 0;
    } catch (error) {
      if (error instanceof OutOfBits) throw cutOff('bzip2', reader);
      throw error;
    }
  }
}
