import { ImageError } from '../core/errors.ts';

/**
 * Thrown by a driver's createStream, before it has written anything: what was asked for can be made, but not in
 * one pass. The image is then made in a temporary file first.
 */
export class StreamImpossible extends ImageError {
  constructor(reason: string) {
    super('unsupported', `The image can't be written to a pipe in one pass: ${reason}`);
    this.name = 'StreamImpossible';
  }
}
