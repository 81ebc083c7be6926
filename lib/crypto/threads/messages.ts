import type { SectorCipherSpec } from '../sector-cipher.ts';

/** What a thread is given when it starts. */
export interface ThreadData {
  spec: SectorCipherSpec;
  /** Slots of `slotBytes`, each the bytes of one job. */
  memory: SharedArrayBuffer;
  slotBytes: number;
}

export type Direction = 'encrypt' | 'decrypt';

/** Encrypts or decrypts the first `length` bytes of a slot where they lie; answered by the slot's number. */
export interface ThreadJob {
  slot: number;
  direction: Direction;
  length: number;
  offset: number;
}
