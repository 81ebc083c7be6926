import { setTimeout } from 'node:timers/promises';
import type { Storage } from './storage.ts';
import { WrappedStorage } from './wrapped.ts';

/** Time as a storage sees it, in milliseconds: tests have their own. */
export interface Clock {
  now(): number;
  sleep(milliseconds: number): Promise<unknown>;
}

const systemClock: Clock = { now: () => performance.now(), sleep: (milliseconds) => setTimeout(milliseconds) };

/** Moves at most `bytesPerSecond` through `storage`, reads and writes together. */
export function rateLimited(storage: Storage, bytesPerSecond: number, clock: Clock = systemClock): Storage {
  return new RateLimitedStorage(storage, bytesPerSecond, clock);
}

class RateLimitedStorage extends WrappedStorage {
  readonly #bytesPerMillisecond: number;
  readonly #clock: Clock;
  /** When everything admitted so far is paid for, in the clock's milliseconds. */
  #paidUntil = 0;

  constructor(inner: Storage, bytesPerSecond: number, clock: Clock) {
    super(inner);
    this.#clock = clock;
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
    const now = this.#clock.now();
    const start = Math.max(now, this.#paidUntil);
    this.#paidUntil = start + bytes / this.#bytesPerMillisecond;
    if (start > now) await this.#clock.sleep(start - now);
  }
}
