import type { Extent } from '../../lib/core/extent.ts';
import type { ForwardSource } from '../../lib/sources/source.ts';
import { PipeOutput } from '../../lib/storage/pipe-output.ts';

/** A pipe that keeps what is written to it. */
export function keptPipe(): { output: PipeOutput; bytes: () => Buffer } {
  const parts: Buffer[] = [];
  const output = new PipeOutput('out', {
    write: async (buffer) => void parts.push(Buffer.from(buffer)),
    close: async () => {},
    destroy: () => {},
  });
  return { output, bytes: () => Buffer.concat(parts) };
}

/** The whole disk that comes; the source is closed then. */
export async function readForward(source: ForwardSource): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const batch of source.batches()) {
    for (const { length, payload } of batch as Iterable<Extent>) {
      parts.push(payload === null ? Buffer.alloc(length) : Buffer.from(payload));
    }
    batch.release();
  }
  await source.close();
  return Buffer.concat(parts);
}
