import { inflateZlib } from '../../core/codecs.ts';
import { ensure } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { CLOOP_OFFSETS_AT, type CloopHeader, checkCloopOffsets, decodeCloopHeader } from '../../layouts/cloop.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { BlockSource } from '../block-source.ts';
import { inContext } from '../context.ts';
import { refuseBeyondReading } from '../read-only.ts';
import type { Source, SourceRequest } from '../source.ts';
import { CloopTables } from './tables.ts';

const FORMAT = 'cloop';
/** Bytes of the offsets table that are checked at a time. */
const CHECKED_AT_ONCE = 1024 * 1024;

const traceOpen = tracePoint('cloop_open');

/** Opens a compressed loop image. Throws an ImageError with file, format and, where it has one, offset. */
export async function openCloop(request: SourceRequest): Promise<Source> {
  const { storage } = request;
  try {
    refuseBeyondReading(FORMAT, request);
    const head = Buffer.alloc(CLOOP_OFFSETS_AT);
    await readPadded(storage, 0, head);
    const header = decodeCloopHeader(head);
    const { blockSize, blocks } = header;
    if (traceOpen.enabled) traceOpen.emit({ file: storage.name, blockSize, blocks });
    await checkOffsets(storage, header);
    return new BlockSource({
      format: FORMAT,
      storage,
      size: blocks * blockSize,
      blockSize,
      tables: new CloopTables(storage, header),
      unpack: inflateZlib,
      opaque: true,
      describe: () => ({ dirty: null }),
    });
  } catch (error) {
    throw inContext(error, storage.name, FORMAT);
  }
}

/** Walks the whole table once, as QEMU does, so that a damaged one shows at once; none of it is kept. */
async function checkOffsets(storage: Storage, { blocks }: CloopHeader): Promise<void> {
  const total = (blocks + 1) * 8;
  const there = CLOOP_OFFSETS_AT + total <= storage.size;
  ensure(there, 'The offsets table lies past the end of the file', { offset: CLOOP_OFFSETS_AT });
  const buffer = Buffer.allocUnsafe(Math.min(total, CHECKED_AT_ONCE));
  let previous = 0;
  for (let at = 0; at < total; at += buffer.length) {
    const part = buffer.subarray(0, Math.min(buffer.length, total - at));
    await storage.read(CLOOP_OFFSETS_AT + at, part);
    previous = checkCloopOffsets(part, at / 8, previous);
  }
}
