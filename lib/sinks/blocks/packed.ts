import { ImageError } from '../../core/errors.ts';
import type { PackedWriter } from '../packed-writer.ts';
import type { ClusterCompressor } from '../target.ts';
import type { BlockStore } from './store.ts';

/** Compresses single blocks, the last one filled up with zeros; absent where the image can have no compressed blocks. */
export function blockCompressor({ packing, cipher, blockSize }: BlockStore): ClusterCompressor | undefined {
  if (packing === undefined || cipher) return undefined;
  return {
    unit: blockSize,
    compress: (plain) => packing.compress(plain.length === blockSize ? plain : padded(plain, blockSize)),
  };
}

function padded(plain: Buffer, size: number): Buffer {
  const block = Buffer.alloc(size);
  plain.copy(block);
  return block;
}

/** Writes one compressed block at guest `offset`, which the caller holds. */
export async function writePacked(
  store: BlockStore,
  writer: PackedWriter,
  { offset, length, packed }: { offset: number; length: number; packed: Buffer },
): Promise<void> {
  const { blockSize, packing, cipher, name: file, format } = store;
  if (cipher) {
    throw new ImageError('unsupported', 'Compression and encryption not supported at the same time', { file, format });
  }
  const whole = length === blockSize || (length < blockSize && offset + length >= store.size);
  if (packing === undefined || offset % blockSize !== 0 || !whole) {
    throw new ImageError('invalid', 'A compressed write must cover one block', { file, format, offset });
  }
  const block = offset / blockSize;
  const { page, host } = await store.tables.lock.run(async () => {
    const page = await store.tables.pageForWrite(block);
    try {
      return { page, host: await packing.reserve(packed.length) };
    } catch (error) {
      page.release();
      throw error;
    }
  });
  try {
    await writer.write(host, packed);
    packing.link(page, block, host, packed.length);
  } finally {
    page.release();
  }
}
