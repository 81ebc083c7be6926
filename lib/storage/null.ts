import { ImageError } from '../core/errors.ts';
import { defineOptions, parseOptions } from '../core/options.ts';
import { checkOptions, type Protocol } from './protocol.ts';
import type { HostRange, Storage } from './storage.ts';

const options = defineOptions({
  size: { type: 'size', help: 'size of the null block', default: 1024 ** 3 },
  'latency-ns': { type: 'number', help: 'nanoseconds to wait before each request is complete', default: 0 },
  'read-zeroes': { type: 'bool', help: 'return zeroes when read', default: false },
});

/** QEMU's null drivers: a disk of any size that keeps nothing and reads as zeros. */
export function nullProtocol(name: string): Protocol {
  return {
    name,
    creates: false,
    async open(spec, { writable = false }) {
      checkOptions(spec, ['filename', ...Object.keys(options)]);
      const { driver, filename, 'node-name': _, ...given } = spec;
      if (filename !== undefined && filename !== `${name}://`) {
        throw new ImageError('invalid', `The only allowed filename for this driver is '${name}://'`);
      }
      const values = parseOptions(options, given);
      if (values['latency-ns'] > 0) throw new ImageError('unsupported', 'latency-ns is not supported');
      return new NullStorage(name, values.size, { writable, knownZero: values['read-zeroes'] });
    },
  };
}

class NullStorage implements Storage {
  readonly name: string;
  readonly protocol: string;
  readonly path = null;
  readonly seekable = true;
  readonly writable: boolean;
  readonly fixedSize = true;
  readonly size: number;
  readonly #knownZero: boolean;

  constructor(protocol: string, size: number, state: { writable: boolean; knownZero: boolean }) {
    this.name = `${protocol}://`;
    this.protocol = protocol;
    this.size = size;
    this.writable = state.writable;
    this.#knownZero = state.knownZero;
  }

  async read(offset: number, buffer: Buffer): Promise<void> {
    this.#check('read', offset, buffer.length);
    buffer.fill(0);
  }

  async write(offset: number, buffer: Buffer): Promise<void> {
    this.#check('write', offset, buffer.length);
  }

  async writev(offset: number, buffers: Buffer[]): Promise<void> {
    for (const buffer of buffers) this.#check('write', offset, buffer.length);
  }

  async zero(offset: number, length: number): Promise<void> {
    this.#check('write', offset, length);
  }

  async discard(): Promise<void> {}

  async allocate(offset: number, length: number): Promise<void> {
    this.#check('write', offset, length);
  }

  async holes(offset: number, length: number): Promise<HostRange[]> {
    // Without read-zeroes the contents are nobody's promise, so no hole is told.
    if (offset >= this.size) return [{ offset, length, hole: true }];
    return [{ offset, length: Math.min(length, this.size - offset), hole: this.#knownZero }];
  }

  async copyFrom(): Promise<number> {
    return 0;
  }

  async truncate(size: number): Promise<void> {
    if (size > this.size) throw new ImageError('unsupported', 'Cannot grow device files', { file: this.name });
  }

  async flush(): Promise<void> {}

  async allocatedBytes(): Promise<number | null> {
    return 0;
  }

  resolve(reference: string): string {
    return reference;
  }

  async close(): Promise<void> {}

  #check(operation: string, offset: number, length: number): void {
    if (offset + length <= this.size) return;
    throw new ImageError(operation === 'read' ? 'corrupt' : 'no-space', 'The range lies beyond the end', {
      file: this.name,
      operation,
      offset,
    });
  }
}
