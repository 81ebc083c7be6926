import { ImageError } from '../core/errors.ts';
import { isZero } from '../core/pool.ts';
import { abortError } from '../core/streams.ts';
import { tracePoint } from '../core/trace.ts';
import type { PipeInput } from './pipe-input.ts';
import { openSpool } from './spool.ts';
import type { Storage } from './storage.ts';

const BUFFER_BYTES = 1024 * 1024;
/** Runs of zeros of this size become holes of the temporary file. */
const BLOCK_BYTES = 64 * 1024;

const traceSpooled = tracePoint('input_spooled');

/** Writes the rest of a pipe to a temporary file without a name and closes the pipe. */
export async function spoolInput(input: PipeInput, directory: string | null, signal?: AbortSignal): Promise<Storage> {
  const spool = await openSpool(directory, input.name);
  try {
    const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
    let offset = 0;
    for (let count = buffer.length; count === buffer.length; offset += count) {
      count = await input.readNext(buffer);
      await writeSparse(spool, offset, buffer.subarray(0, count));
    }
    await spool.truncate(offset);
    if (traceSpooled.enabled) traceSpooled.emit({ file: input.name, bytes: offset });
    await input.close();
    return spool;
  } catch (error) {
    await spool.close();
    await input.close().catch(() => {});
    if (signal?.aborted && error instanceof ImageError) throw abortError(signal);
    throw error;
  }
}

async function writeSparse(spool: Storage, offset: number, bytes: Buffer): Promise<void> {
  let start = 0;
  for (let at = 0; at < bytes.length; at += BLOCK_BYTES) {
    const end = Math.min(bytes.length, at + BLOCK_BYTES);
    if (!isZero(bytes, at, end)) continue;
    if (at > start) await spool.write(offset + start, bytes.subarray(start, at));
    start = end;
  }
  if (start < bytes.length) await spool.write(offset + start, bytes.subarray(start));
}
