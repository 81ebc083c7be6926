import { isAbsolute, join } from 'node:path';
import { ImageError } from '../core/errors.ts';
import { zeroBlock } from '../core/pool.ts';
import type { CloseOptions, HostRange, Storage, ZeroOptions } from './storage.ts';

/** What pipes of both directions have in common: they refuse all that needs a seek. */
export abstract class SequentialStorage implements Storage {
  readonly name: string;
  readonly protocol = 'pipe';
  readonly path = null;
  readonly seekable = false;
  readonly fixedSize = false;
  abstract readonly writable: boolean;
  /** Bytes that have passed. */
  protected passed = 0;

  constructor(name: string) {
    this.name = name;
  }

  get size(): number {
    return this.passed;
  }

  async read(offset: number, _buffer: Buffer): Promise<void> {
    throw this.refuse('read', offset);
  }

  async write(offset: number, _buffer: Buffer): Promise<void> {
    throw this.refuse('write', offset);
  }

  async writev(offset: number, buffers: Buffer[]): Promise<void> {
    let at = offset;
    for (const buffer of buffers) {
      await this.write(at, buffer);
      at += buffer.length;
    }
  }

  async zero(offset: number, length: number, _options?: ZeroOptions): Promise<void> {
    const zeros = zeroBlock();
    for (let done = 0; done < length; done += zeros.length) {
      await this.write(offset + done, zeros.subarray(0, Math.min(zeros.length, length - done)));
    }
  }

  async discard(_offset: number, _length: number): Promise<void> {}

  async allocate(offset: number, _length: number): Promise<void> {
    throw this.refuse('allocate', offset);
  }

  async holes(offset: number, length: number): Promise<HostRange[]> {
    return [{ offset, length, hole: false }];
  }

  async copyFrom(): Promise<number> {
    return 0;
  }

  /** Only to where the pipe is already. */
  async truncate(size: number): Promise<void> {
    if (size !== this.passed) throw this.refuse('truncate', size);
  }

  async flush(): Promise<void> {}

  async allocatedBytes(): Promise<number | null> {
    return null;
  }

  resolve(reference: string): string {
    return isAbsolute(reference) ? reference : join('.', reference);
  }

  abstract close(options?: CloseOptions): Promise<void>;

  protected refuse(operation: string, offset: number): ImageError {
    const message = `A pipe goes forward only: it can't ${operation} at byte ${offset}, being at ${this.passed}`;
    return new ImageError('unsupported', message, { file: this.name, operation, offset });
  }
}
