import { extname, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { ImageError } from '../core/errors.ts';
import { type Argon2Request, computeArgon2 } from './argon2-compute.ts';

/** Work and room of one derivation. */
export type Argon2Cost = Pick<Argon2Request, 'time' | 'memory' | 'cpus'>;

/** KiB: WebAssembly's memory as one array of bytes ends here. */
export const MAX_ARGON2_MEMORY = 2 ** 21 - 2;
/**
 * KiB times passes: a minute or three. What makes containers measures for two seconds, and takes a GiB and some passes
 * at the most.
 */
export const MAX_ARGON2_WORK = 2 ** 25;
/** KiB times passes that take no longer than a thread to start. */
const THREAD_WORK = 2 ** 16;
const MIN_SALT_BYTES = 8;

/** The bundle's own file for the thread, beside it. */
declare const IMGPIPE_ARGON2_WORKER: string | undefined;

/**
 * Argon2 (RFC 9106), version 1.3, in WebAssembly: `length` bytes of key, in another thread if it takes long. The memory is
 * taken as soon as it is called, so costs that a file names are checked first: ImageError `unsupported` for those that
 * nobody could mean, and for empty passwords, which the implementation does not take.
 */
export async function argon2Key(
  variant: Argon2Request['variant'],
  password: Uint8Array,
  salt: Uint8Array,
  cost: Argon2Cost,
  length: number,
): Promise<Buffer> {
  checkArgon2Cost(cost);
  if (password.length === 0) throw new ImageError('unsupported', 'Argon2 takes no empty passphrase');
  if (salt.length < MIN_SALT_BYTES) throw new ImageError('corrupt', "Argon2's salt is too short");
  const { time, memory, cpus } = cost;
  const request: Argon2Request = { variant, password, salt, time, memory, cpus, length };
  const key = await (time * memory > THREAD_WORK ? inThread(request) : computeArgon2(request)).catch((cause) => {
    // There may be less memory than the file asks for.
    throw new ImageError('io', `Argon2 with ${memory} KiB of memory failed: ${(cause as Error).message}`, { cause });
  });
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength);
}

/** Throws an ImageError for costs that are none, or too high. */
export function checkArgon2Cost({ time, memory, cpus }: Argon2Cost): void {
  if (memory < 8 * cpus) throw new ImageError('corrupt', `Argon2 can't have ${cpus} lanes in ${memory} KiB of memory`);
  if (memory > MAX_ARGON2_MEMORY) {
    throw new ImageError('unsupported', `Argon2 with ${memory} KiB of memory: ${MAX_ARGON2_MEMORY} are the limit`);
  }
  if (time * memory > MAX_ARGON2_WORK) {
    throw new ImageError('unsupported', `Argon2 with ${time} passes over ${memory} KiB would take too long`);
  }
}

/** Where no thread can be had, this one does it. */
async function inThread(request: Argon2Request): Promise<Uint8Array> {
  let worker: Worker;
  try {
    worker = new Worker(workerFile(), { workerData: request });
  } catch {
    return computeArgon2(request);
  }
  try {
    return await new Promise<Uint8Array>((resolve, reject) => {
      worker.on('message', resolve);
      worker.on('error', reject);
      worker.on('exit', () => reject(new Error('The thread has ended')));
    });
  } catch {
    return computeArgon2(request);
  } finally {
    await worker.terminate();
  }
}

function workerFile(): string | URL {
  if (typeof IMGPIPE_ARGON2_WORKER === 'string') return join(__dirname, IMGPIPE_ARGON2_WORKER);
  return new URL(`./threads/argon2-worker${extname(import.meta.url)}`, import.meta.url);
}
