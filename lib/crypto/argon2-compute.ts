import hashWasm from 'hash-wasm/dist/argon2.umd.min.js';

/** One derivation (RFC 9106, section 3.1), whose costs have been looked at. */
export interface Argon2Request {
  variant: 'argon2i' | 'argon2id';
  password: Uint8Array;
  salt: Uint8Array;
  /** Passes over the memory, `t`. */
  time: number;
  /** KiB, `m`. */
  memory: number;
  /** Lanes, `p`. */
  cpus: number;
  /** Bytes of key. */
  length: number;
}

/** Derives the key, in this thread: nothing else happens in it meanwhile. */
export function computeArgon2({ variant, time, memory, cpus, length, ...rest }: Argon2Request): Promise<Uint8Array> {
  return hashWasm[variant]({
    ...{ ...rest, iterations: time, memorySize: memory, parallelism: cpus },
    ...{ hashLength: length, outputType: 'binary' },
  });
}
