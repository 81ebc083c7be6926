import { availableParallelism } from 'node:os';
import { tracePoint } from '../core/trace.ts';
import { type DiskCipher, type SectorCipher, type SectorCipherSpec, sectorCipher } from './sector-cipher.ts';
import { CipherThread, SLOT_BYTES } from './threads/cipher-thread.ts';
import type { Direction } from './threads/messages.ts';

export interface DiskCipherOptions {
  /** Threads beside this one; by default as many as pay on this machine. */
  threads?: number;
  /** They are started when so many bytes have gone through. */
  threadsAfter?: number;
  /** The threads' program; by default the one that comes with this file. */
  threadFile?: string | URL;
}

const MAX_THREADS = 4;
/** About as much as is encrypted in the time that a thread takes to start. */
const THREADS_AFTER = 32 * 1024 * 1024;
/** Shorter batches are encrypted here: handing them over would take as long. */
const MIN_JOB = 128 * 1024;

/**
 * A thread costs a fifth more of the processors' time, for copying there and back. AES takes hardly longer than reading and
 * writing, which have another processor busy already; the ciphers that no processor has an instruction for take ten times
 * as long.
 */
function usefulThreads({ cipher }: SectorCipherSpec): number {
  const taken = cipher.startsWith('aes-') ? 2 : 1;
  return Math.max(0, Math.min(MAX_THREADS, availableParallelism() - taken));
}

const traceThreads = tracePoint('crypto_threads');

/**
 * The cipher of `spec` for bulk work; errors as of `sectorCipher`. Long batches are split among threads; while all of them
 * are busy, this thread takes its part.
 */
export function diskCipher(spec: SectorCipherSpec, options: DiskCipherOptions = {}): DiskCipher {
  return new ThreadedCipher(spec, options);
}

class ThreadedCipher implements DiskCipher {
  readonly #spec: SectorCipherSpec;
  readonly #cipher: SectorCipher;
  #count: number;
  readonly #file: string | URL | undefined;
  #untilThreads: number;
  #threads: CipherThread[] = [];
  readonly #running = new Set<Promise<void>>();
  #closed = false;

  constructor(spec: SectorCipherSpec, options: DiskCipherOptions) {
    this.#cipher = sectorCipher(spec);
    this.#spec = { ...spec, key: Uint8Array.from(spec.key) };
    this.#count = options.threads ?? usefulThreads(spec);
    this.#file = options.threadFile;
    this.#untilThreads = options.threadsAfter ?? THREADS_AFTER;
  }

  get sectorSize(): number {
    return this.#cipher.sectorSize;
  }

  encrypt(bytes: Buffer, offset: number): Promise<void> {
    return this.#apply('encrypt', bytes, offset);
  }

  decrypt(bytes: Buffer, offset: number): Promise<void> {
    return this.#apply('decrypt', bytes, offset);
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled(this.#running);
    const threads = this.#threads;
    this.#threads = [];
    await Promise.all(threads.map((thread) => thread.end()));
  }

  async #apply(direction: Direction, bytes: Buffer, offset: number): Promise<void> {
    if (bytes.length < MIN_JOB || !this.#hasThreads(bytes.length)) {
      this.#cipher[direction](bytes, offset);
      return;
    }
    const jobs: Promise<void>[] = [];
    for (let at = 0; at < bytes.length; at += SLOT_BYTES) {
      const part = bytes.subarray(at, at + SLOT_BYTES);
      const thread = this.#threads.find(({ hasRoom }) => hasRoom);
      if (thread === undefined) this.#cipher[direction](part, offset + at);
      else jobs.push(this.#handOver(thread, direction, part, offset + at));
    }
    await Promise.all(jobs);
  }

  async #handOver(thread: CipherThread, direction: Direction, part: Buffer, offset: number): Promise<void> {
    const job = thread.run(direction, part, offset).catch((error: unknown) => {
      // A thread that can't be had leaves the bytes as they were.
      if (traceThreads.enabled) traceThreads.emit({ failed: String(error) });
      this.#cipher[direction](part, offset);
    });
    this.#running.add(job);
    try {
      await job;
    } finally {
      this.#running.delete(job);
    }
  }

  /** Whether there are threads; starts them when it is time. */
  #hasThreads(length: number): boolean {
    if (this.#threads.length > 0) return true;
    this.#untilThreads -= length;
    if (this.#untilThreads > 0 || this.#count < 1 || this.#closed) return false;
    if (traceThreads.enabled) traceThreads.emit({ threads: this.#count, cipher: this.#spec.cipher });
    try {
      this.#threads = Array.from({ length: this.#count }, () => new CipherThread(this.#spec, this.#file));
    } catch {
      // Whoever has bundled this library without the thread's file does without threads.
      this.#count = 0;
    }
    return this.#threads.length > 0;
  }
}
