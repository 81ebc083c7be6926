import hashWasm from 'hash-wasm/dist/argon2.umd.min.js';
import { ImageError } from '../core/errors.ts';

/** Work and room of one derivation (RFC 9106, section 3.1). */
export interface Argon2Cost {
  /** Passes over the memory, `t`. */
  time: number;
  /** KiB, `m`. */
  memory: number;
  /** Lanes, `p`. */
  cpus: number;
}

/** KiB: WebAssembly's memory as one array of bytes ends here. */
export const MAX_ARGON2_MEMORY = 2 ** 21 - 2;
/**
 * KiB times passes: a minute or three. What makes containers measures for two seconds, and takes a GiB and some passes
 * at the most.
 */
export const MAX_ARGON2_WORK = 2 ** 25;
const MIN_SALT_BYTES = 8;

/**
 * Argon2 (RFC 9106), version 1.3, in WebAssembly: `length` bytes of key. The memory is taken as soon as it is called, so
 * costs that a file names are checked first: ImageError `unsupported` for those that nobody could mean, and for
 * empty passwords and short salts, which the implementation does not take.
 */
export async function argon2Key(
  variant: 'argon2i' | 'argon2id',
  password: Uint8Array,
  salt: Uint8Array,
  cost: Argon2Cost,
  length: number,
): Promise<Buffer> {
  checkArgon2Cost(cost);
  if (password.length === 0) throw new ImageError('unsupported', 'Argon2 takes no empty passphrase');
  if (salt.length < MIN_SALT_BYTES) throw new ImageError('corrupt', "Argon2's salt is too short");
  const key = await hashWasm[variant]({
    password,
    salt,
    iterations: cost.time,
    memorySize: cost.memory,
    parallelism: cost.cpus,
    hashLength: length,
    outputType: 'binary',
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
