import { ImageError } from '../core/errors.ts';
import { ExtentBatch, extent } from '../core/extent.ts';
import { PipeInput } from '../storage/pipe-input.ts';
import type { Storage } from '../storage/storage.ts';

/**
 * Thrown by a driver's openForward, before it has consumed anything: the image is in order as far as can be seen,
 * but its bytes do not lie in the order in which a guest disk is read.
 */
export class ForwardImpossible extends ImageError {
  constructor(reason: string) {
    super('unsupported', `The image can't be read from a pipe in one pass: ${reason}`);
    this.name = 'ForwardImpossible';
  }
}

/** The storage of a forward request: one whose head can be looked at. */
export function forwardInput(storage: Storage): PipeInput {
  if (storage instanceof PipeInput) return storage;
  throw new ForwardImpossible('it is no pipe');
}

/** A batch of one loaded data extent. */
export function dataBatch(offset: number, payload: Buffer, release: () => void): ExtentBatch {
  const data = extent(offset, payload.length, 'data');
  data.payload = payload;
  return new ExtentBatch([data], release);
}
