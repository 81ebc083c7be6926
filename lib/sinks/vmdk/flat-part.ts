import type { ByteReader } from '../../core/extent.ts';
import { SECTOR } from '../../layouts/vmdk/index.ts';
import type { FlatReader } from '../../sources/vmdk/readers.ts';
import type { ImagePart } from './target.ts';

/** A plain extent: guest bytes lie in the file one behind the other. */
export function flatPart({ storage, offset: base, size }: FlatReader): ImagePart {
  return {
    size,
    write: (offset, buffer) => storage.write(base + offset, buffer),
    zero: (offset, length, options) => storage.zero(base + offset, length, options),
    discard: (offset, length) => storage.discard(base + offset, length),
    copyFrom: (offset: number, host: ByteReader, hostOffset: number, length: number) =>
      storage.copyFrom(host, hostOffset, base + offset, length),
    flush: () => storage.flush(),
    async close() {
      // A file that ends too early would be refused by readers.
      const end = base + Math.ceil(size / SECTOR) * SECTOR;
      if (!storage.fixedSize && storage.size < end) await storage.truncate(end);
      await storage.flush();
    },
    async abort() {},
  };
}
