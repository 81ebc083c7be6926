import { fromSystemError, type ImageError } from '../core/errors.ts';
import type { CloseOptions, Storage, ZeroOptions } from './storage.ts';
import { WrappedStorage } from './wrapped.ts';

/** The operations of a storage that can be made to fail. `writev` counts as a write. */
export type FaultyOperation = 'read' | 'write' | 'zero' | 'discard' | 'allocate' | 'truncate' | 'flush' | 'close';

/** One failure to come: the `nth` (from 1) operation of that name fails with the errno of that name. */
export interface Fault {
  operation: FaultyOperation;
  nth: number;
  /** Such as `EIO`. */
  code: string;
  /** Every later one fails too: a disk that is broken, not one that hiccups. */
  lasting?: boolean;
}

/** What reached the storage, in order: enough to make the disk as it was at any moment. */
export type StorageEvent =
  | { operation: 'write'; offset: number; data: Buffer }
  | { operation: 'zero' | 'discard' | 'allocate'; offset: number; length: number }
  | { operation: 'truncate'; size: number }
  | { operation: 'flush' };

export interface FaultPlan {
  faults?: readonly Fault[];
  /** Bytes that may be written in all; then the disk is full (ENOSPC), with the write that hits the limit cut. */
  capacity?: number;
  /** Takes what has been done successfully. */
  record?: StorageEvent[];
}

/** A storage that fails on cue and tells what was done to it: for tests of everything that writes. */
export function faultyStorage(storage: Storage, plan: FaultPlan): Storage {
  return new FaultyStorage(storage, plan);
}

/** Does again what was recorded. */
export async function replayEvents(events: readonly StorageEvent[], storage: Storage): Promise<void> {
  for (const event of events) {
    if (event.operation === 'write') await storage.write(event.offset, event.data);
    else if (event.operation === 'truncate') await storage.truncate(event.size);
    else if (event.operation === 'flush') await storage.flush();
    else await storage[event.operation](event.offset, event.length);
  }
}

class FaultyStorage extends WrappedStorage {
  readonly #plan: FaultPlan;
  readonly #counts = new Map<FaultyOperation, number>();
  #room: number;

  constructor(inner: Storage, plan: FaultPlan) {
    super(inner);
    this.#plan = plan;
    this.#room = plan.capacity ?? Number.POSITIVE_INFINITY;
  }

  override async read(offset: number, buffer: Buffer): Promise<void> {
    this.#meetFault('read', offset);
    return this.inner.read(offset, buffer);
  }

  override async write(offset: number, buffer: Buffer): Promise<void> {
    this.#meetFault('write', offset);
    const fits = Math.min(this.#room, buffer.length);
    this.#room -= fits;
    const data = buffer.subarray(0, fits);
    if (fits > 0) {
      await this.inner.write(offset, data);
      this.#plan.record?.push({ operation: 'write', offset, data: Buffer.from(data) });
    }
    if (fits < buffer.length) throw this.#failure('ENOSPC', 'write', offset + fits);
  }

  override writev(offset: number, buffers: Buffer[]): Promise<void> {
    return this.write(offset, Buffer.concat(buffers));
  }

  override async zero(offset: number, length: number, options?: ZeroOptions): Promise<void> {
    this.#meetFault('zero', offset);
    await this.inner.zero(offset, length, options);
    this.#plan.record?.push({ operation: 'zero', offset, length });
  }

  override async discard(offset: number, length: number): Promise<void> {
    this.#meetFault('discard', offset);
    await this.inner.discard(offset, length);
    this.#plan.record?.push({ operation: 'discard', offset, length });
  }

  override async allocate(offset: number, length: number): Promise<void> {
    this.#meetFault('allocate', offset);
    await this.inner.allocate(offset, length);
    this.#plan.record?.push({ operation: 'allocate', offset, length });
  }

  override async truncate(size: number): Promise<void> {
    this.#meetFault('truncate', size);
    await this.inner.truncate(size);
    this.#plan.record?.push({ operation: 'truncate', size });
  }

  override async flush(): Promise<void> {
    this.#meetFault('flush');
    await this.inner.flush();
    this.#plan.record?.push({ operation: 'flush' });
  }

  /** The storage beneath is closed all the same, as close(2) does. */
  override async close(options?: CloseOptions): Promise<void> {
    await this.inner.close(options);
    this.#meetFault('close');
  }

  #meetFault(operation: FaultyOperation, offset?: number): void {
    const count = (this.#counts.get(operation) ?? 0) + 1;
    this.#counts.set(operation, count);
    for (const fault of this.#plan.faults ?? []) {
      if (fault.operation !== operation) continue;
      if (count === fault.nth || (fault.lasting && count > fault.nth)) {
        throw this.#failure(fault.code, operation, offset);
      }
    }
  }

  #failure(code: string, operation: string, offset?: number): ImageError {
    return fromSystemError({ code }, { file: this.name, operation, offset });
  }
}
