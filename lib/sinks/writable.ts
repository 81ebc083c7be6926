import { Writable } from 'streamx';
import { fromSystemError, ImageError } from '../core/errors.ts';
import type { Extent, ExtentBatch } from '../core/extent.ts';
import { BATCH_STREAM } from '../core/streams.ts';
import { tracePoint } from '../core/trace.ts';
import { allSettled } from '../core/turns.ts';
import { Window } from '../core/window.ts';
import { contiguous } from '../transforms/align.ts';
import type { Target } from './target.ts';

export interface TargetWritableOptions {
  /** Batches being written at the most; default 8. A sequential target gets one write at a time whatever this says. */
  window?: number;
  /** Zeros need not be written: the target reads as zeros already. Default: as the target says of itself. */
  skipZeros?: boolean;
  /** What `unallocated` means: zeros (default), or "leave to the target's backing file". */
  unallocated?: 'zero' | 'skip';
  /** Completes the target when all is written, and gives it up where the stream is destroyed. Default true. */
  close?: boolean;
  /** Told after each batch that has been written. */
  onWritten?: (batch: WrittenBatch) => void;
}

/** What `onWritten` is told: guest bytes in all, and those of them that were data. */
export interface WrittenBatch {
  offset: number;
  length: number;
  data: number;
}

/** One call of the target. */
interface Operation {
  offset: number;
  length: number;
  payload: Buffer | null;
  packed: boolean;
}

const traceWrite = tracePoint('target_write');

/**
 * Writes batches to a target: neighbouring payloads in one write, zeros by the target's cheapest way, several batches in
 * flight, started in the order in which they come. Loaded data only. Fails with an ImageError that names the
 * guest offset. Releases batches.
 */
export function targetWritable(target: Target, options: TargetWritableOptions = {}): TargetWritable {
  return new TargetWritable(target, options);
}

/** See `targetWritable`. */
export class TargetWritable extends Writable {
  readonly #target: Target;
  readonly #options: TargetWritableOptions;
  readonly #window: Window;
  readonly #skipZeros: boolean;
  #completed = false;
  #written = 0;

  constructor(target: Target, options: TargetWritableOptions) {
    super(BATCH_STREAM);
    this.#target = target;
    this.#options = options;
    this.#window = new Window(target.sequential ? 1 : (options.window ?? 8));
    this.#skipZeros = options.skipZeros ?? target.readsAsZero;
  }

  /** Guest bytes written as data so far. */
  get bytesWritten(): number {
    return this.#written;
  }

  override _write(data: unknown, callback: (error: Error | null) => void): void {
    const batch = data as ExtentBatch;
    this.#window
      .enter(() => this.#store(batch))
      .then(
        () => callback(null),
        (error) => callback(error),
      );
  }

  override _final(callback: (error: Error | null) => void): void {
    this.#finish().then(() => callback(null), callback);
  }

  override _destroy(callback: (error: Error | null) => void): void {
    this.#giveUp().then(() => callback(null), callback);
  }

  async #finish(): Promise<void> {
    await this.#window.drain();
    if (this.#options.close === false) return;
    await this.#target.close();
    this.#completed = true;
  }

  async #giveUp(): Promise<void> {
    await this.#window.settle();
    if (this.#completed || this.#options.close === false) return;
    await this.#target.abort();
  }

  async #store(batch: ExtentBatch): Promise<void> {
    try {
      const operations = this.#plan(batch);
      // At once, not one by one: the target orders what it must, and a pipe is told apart.
      if (this.#target.sequential) for (const each of operations) await this.#run(each);
      else await allSettled(this.#start(operations));
      this.#report(batch, operations);
    } catch (error) {
      // A failure while the input pauses must not wait for the next batch to be noticed.
      this.destroy(error as Error);
      throw error;
    }
  }

  #report(batch: ExtentBatch, operations: Operation[]): void {
    const { offset } = batch;
    let [length, data] = [0, 0];
    for (const each of batch) length += each.length;
    for (const each of operations) if (each.payload !== null) data += each.length;
    this.#written += data;
    batch.release();
    this.#options.onWritten?.({ offset, length, data });
  }

  #plan(batch: ExtentBatch): Operation[] {
    const operations: Operation[] = [];
    const { extents } = batch;
    for (let first = 0; first < extents.length; ) {
      const each = extents[first];
      let next = first + 1;
      if (each.kind === 'data') {
        while (next < extents.length && continues(extents[next - 1], extents[next])) next += 1;
        operations.push(dataOperation(extents.slice(first, next)));
      } else if (!this.#skips(each)) {
        operations.push({ offset: each.offset, length: each.length, payload: null, packed: false });
      }
      first = next;
    }
    return operations;
  }

  #skips(each: Extent): boolean {
    if (each.kind === 'unallocated' && this.#options.unallocated === 'skip') return true;
    return this.#skipZeros;
  }

  #start(operations: readonly Operation[]): Promise<void>[] {
    const plain = operations.filter(({ payload, packed }) => payload !== null && !packed);
    if (this.#target.writeMany === undefined || plain.length < 2) return operations.map((each) => this.#run(each));
    const others = operations.filter((each) => !plain.includes(each)).map((each) => this.#run(each));
    return [this.#runMany(plain), ...others];
  }

  async #runMany(operations: readonly Operation[]): Promise<void> {
    if (traceWrite.enabled) for (const each of operations) this.#trace(each);
    try {
      await this.#target.writeMany?.(operations.map(({ offset, payload }) => ({ offset, buffer: payload as Buffer })));
    } catch (error) {
      throw placed(error, operations[0].offset);
    }
  }

  #trace({ offset, length, payload, packed }: Operation): void {
    traceWrite.emit({ offset, length, zero: payload === null, packed });
  }

  async #run(operation: Operation): Promise<void> {
    const { offset, length, payload, packed } = operation;
    if (traceWrite.enabled) this.#trace(operation);
    const target = this.#target;
    try {
      if (payload === null) await target.zero(offset, length, { unmap: true });
      else if (!packed) await target.write(offset, payload);
      else if (target.writeCompressed !== undefined) await target.writeCompressed(offset, length, payload);
      else throw new ImageError('unsupported', 'Compression not supported for this file format');
    } catch (error) {
      throw placed(error, offset);
    }
  }
}

/** Whether the payloads lie side by side in the guest and in memory, so that one write takes both. */
function continues(last: Extent, next: Extent): boolean {
  const [a, b] = [last.payload, next.payload];
  if (next.kind !== 'data' || last.packed || next.packed || a === null || b === null) return false;
  if (last.offset + last.length !== next.offset) return false;
  return a.buffer === b.buffer && a.byteOffset + a.length === b.byteOffset;
}

function dataOperation(run: Extent[]): Operation {
  const [{ offset, payload, packed }] = run;
  if (payload === null) {
    throw new ImageError('invalid', 'A target takes loaded extents only: put load() before it', { offset });
  }
  if (run.length === 1) return { offset, length: run[0].length, payload, packed };
  const whole = contiguous(run) as Buffer;
  return { offset, length: whole.length, payload: whole, packed };
}

function placed(error: unknown, offset: number): ImageError {
  const known = fromSystemError(error);
  const { kind, file, format, code } = known;
  const message = `error while writing at byte ${offset}: ${known.message}`;
  return new ImageError(kind, message, { file, format, operation: 'write', offset, code, cause: known });
}
