import { setTimeout as sleep } from 'node:timers/promises';
import type { Storage } from './storage.ts';
import { WrappedStorage } from './wrapped.ts';

/** Moves at most `bytesPerSecond` through `storage`, reads and writes together. */
export function rateLimited(storage: Storage, bytesPerSecond: number): Storage {
  return new RateLimitedStorage(storage, bytesPerSecond);
}

class RateLimitedStorage extends WrappedStorage {
  readonly #bytesPerMillisecond: number;
  /** When everything admitted so far is paid for, in milliseconds of `performance.now()`. */
  #paidUntil = 0;

  constructor(inner: Storage, bytesPerSecond: number) {
    super(inner);
    this.#bytesPerMillisecond = bytesPerSecond / 1000;
  }

  override async read(offset: number, buffer: Buffer): Promise<void> {
    await this.#pay(buffer.length);
    return this.inner.read(offset, buffer);
  }

  override async write(offset: number, buffer: Buffer): Promise<void> {
    await this.#pay(buffer.length);
    return this.inner.write(offset, buffer);
  }

  override async writev(offset: number, buffers: Buffer[]): Promise<void> {
    await this.#pay(buffers.reduce((sum, { length }) => sum + length, 0));
    return this.inner.writev(offset, buffers);
  }

  /** Waits until the bytes before these have had their time. */
  async #pay(bytes: number): Promise<void> {
    const now = performance.now();
    const start = Math.max(now, this.#paidUntil);
    this.#paidUntil = start + bytes / this.#bytesPerMillisecond;
    if (start > now) await sleep(start - now);
  }
}
