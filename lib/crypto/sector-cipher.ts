/** Ciphers by QEMU's names (QAPI QCryptoCipherAlgorithm): those that a LUKS container can be made with. */
export type CipherName =
  | 'aes-128'
  | 'aes-192'
  | 'aes-256'
  | 'cast5-128'
  | 'serpent-128'
  | 'serpent-192'
  | 'serpent-256'
  | 'twofish-128'
  | 'twofish-192'
  | 'twofish-256';
export type CipherMode = 'ecb' | 'cbc' | 'xts' | 'ctr';
export type IvGenerator = 'plain' | 'plain64' | 'plain64be' | 'essiv';
export type HashName = 'md5' | 'sha1' | 'sha224' | 'sha256' | 'sha384' | 'sha512' | 'ripemd160';

/** How the sectors of a disk are encrypted. */
export interface SectorCipherSpec {
  cipher: CipherName;
  mode: CipherMode;
  /** Null where the mode takes no IV (ecb). */
  ivGenerator: IvGenerator | null;
  /** Of `essiv`. */
  ivHash: HashName | null;
  /** XTS takes two keys, so twice the bytes that the cipher's name says. */
  key: Uint8Array;
  /** Bytes that are encrypted with one IV: 512, or up to 4096 in LUKS2. */
  sectorSize: number;
}

/**
 * Encrypts whole sectors where they lie. `offset` is the place of the first in bytes, a multiple of the sector size;
 * IVs are made of the number of the 512-byte sector there, whatever `sectorSize` is (as dm-crypt does by default).
 */
export interface SectorCipher {
  readonly sectorSize: number;
  encrypt(bytes: Buffer, offset: number): void;
  decrypt(bytes: Buffer, offset: number): void;
}

/**
 * The same for bulk work: batches of up to some MiB, several at a time, which may be done in other threads. Until the
 * promise has settled nobody else may touch `bytes`.
 */
export interface DiskCipher {
  readonly sectorSize: number;
  encrypt(bytes: Buffer, offset: number): Promise<void>;
  decrypt(bytes: Buffer, offset: number): Promise<void>;
  /** Lets go of threads. Idempotent; what is under way ends first. */
  close(): Promise<void>;
}
