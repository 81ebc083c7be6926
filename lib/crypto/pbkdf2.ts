import { pbkdf2, pbkdf2Sync } from 'node:crypto';
import { promisify } from 'node:util';
import { ImageError } from '../core/errors.ts';
import type { HashName } from './hash.ts';

const derive = promisify(pbkdf2);

/** RFC 8018 has at least 1000; LUKS says the same of its key slots. */
export const MIN_ITERATIONS = 1000;
/** Headers have 32 bits for the number, and OpenSSL takes 31. */
export const MAX_ITERATIONS = 2 ** 31 - 1;

/**
 * PBKDF2 (RFC 8018, section 5.2) with HMAC of `hash`, in the thread pool.
 * @param length bytes of the derived key
 */
export function deriveKey(
  hash: HashName,
  password: Uint8Array,
  salt: Uint8Array,
  iterations: number,
  length: number,
): Promise<Buffer> {
  if (!Number.isInteger(iterations) || iterations < 1 || iterations > MAX_ITERATIONS) {
    const message = `PBKDF2 can't be iterated ${iterations} times: a number between 1 and ${MAX_ITERATIONS} is needed`;
    return Promise.reject(new ImageError('invalid', message));
  }
  return derive(password, salt, iterations, length, hash);
}

/** A measurement shorter than this says nothing. */
const MIN_SAMPLE_MS = 40;
const FIRST_SAMPLE = 1 << 12;

/**
 * How many iterations keep this machine's processor busy for `milliseconds` when a key of `length` bytes is derived;
 * never fewer than 1000. It is the processor's time, not the clock's, so that a busy machine does not weaken the key.
 */
export function iterationsFor(hash: HashName, milliseconds: number, length = 32): number {
  const salt = Buffer.alloc(32);
  for (let iterations = FIRST_SAMPLE; ; iterations *= 2) {
    const before = process.cpuUsage();
    pbkdf2Sync('password', salt, iterations, length, hash);
    const { user, system } = process.cpuUsage(before);
    const spent = (user + system) / 1000;
    if (spent < MIN_SAMPLE_MS && iterations < MAX_ITERATIONS / 2) continue;
    const wanted = Math.floor((iterations / spent) * milliseconds);
    return Math.min(MAX_ITERATIONS, Math.max(MIN_ITERATIONS, wanted));
  }
}
