import { extname, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { SectorCipherSpec } from '../sector-cipher.ts';
import type { Direction, ThreadData, ThreadJob } from './messages.ts';

/** Two jobs, so that the thread has the next one when it has done one. */
const SLOTS = 2;
/** Bytes of a job at the most. */
export const SLOT_BYTES = 1024 * 1024;

/** The bundle's own file for the thread, beside it. */
declare const IMGPIPE_CIPHER_WORKER: string | undefined;

interface Waiting {
  done(): void;
  failed(error: unknown): void;
}

/** A thread that encrypts with one key. It keeps the process alive only while it has something to do. */
export class CipherThread {
  readonly #worker: Worker;
  readonly #memory: Buffer;
  readonly #free = Array.from({ length: SLOTS }, (_, index) => index);
  readonly #waiting = new Map<number, Waiting>();
  #failed = false;

  /** @param file the thread's program */
  constructor(spec: SectorCipherSpec, file: string | URL = workerFile()) {
    const memory = new SharedArrayBuffer(SLOTS * SLOT_BYTES);
    this.#memory = Buffer.from(memory);
    const workerData: ThreadData = { spec, memory, slotBytes: SLOT_BYTES };
    this.#worker = new Worker(file, { workerData });
    this.#worker.on('message', (slot: number) => this.#answered(slot));
    this.#worker.on('error', (error) => this.#fail(error));
    this.#worker.on('exit', () => this.#fail(new Error('The thread has ended')));
    this.#worker.unref();
  }

  /** Whether it can take a job. */
  get hasRoom(): boolean {
    return this.#free.length > 0 && !this.#failed;
  }

  /**
   * Does a job of at most `SLOT_BYTES`; call it only where there is room. When it fails, because the thread can't be
   * had, `bytes` are as they were.
   */
  async run(direction: Direction, bytes: Buffer, offset: number): Promise<void> {
    const slot = this.#free.pop() as number;
    const shared = this.#memory.subarray(slot * SLOT_BYTES, slot * SLOT_BYTES + bytes.length);
    shared.set(bytes);
    const answer = new Promise<void>((done, failed) => this.#waiting.set(slot, { done, failed }));
    this.#worker.ref();
    const job: ThreadJob = { slot, direction, length: bytes.length, offset };
    this.#worker.postMessage(job);
    await answer;
    bytes.set(shared);
    this.#free.push(slot);
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }

  #answered(slot: number): void {
    const waiting = this.#waiting.get(slot);
    this.#waiting.delete(slot);
    if (this.#waiting.size === 0) this.#worker.unref();
    waiting?.done();
  }

  #fail(error: unknown): void {
    this.#failed = true;
    for (const { failed } of this.#waiting.values()) failed(error);
    this.#waiting.clear();
  }
}

/** Where this runs from TypeScript, not every loader serves threads: then there is none, and the work is done without. */
function workerFile(): string | URL {
  if (typeof IMGPIPE_CIPHER_WORKER === 'string') return join(__dirname, IMGPIPE_CIPHER_WORKER);
  return new URL(`./worker${extname(import.meta.url)}`, import.meta.url);
}
