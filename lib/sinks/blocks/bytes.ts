import type { Place } from '../../sources/encryption/cluster-cipher.ts';
import { type GuestRange, writeZeros } from '../zeros.ts';
import type { BlockStore } from './store.ts';

/** Writes guest bytes to where they lie, encrypted where the format's blocks are. The caller holds the block. */
export function writeBytes({ data, cipher }: BlockStore, place: Place, bytes: Buffer): Promise<void> {
  return cipher ? cipher.write(data, place, [bytes]) : data.write(place.host, bytes);
}

/** Makes guest bytes read as zeros: encrypted ones are no zeros in the file. */
export function zeroBytes(store: BlockStore, { start, end }: GuestRange, host: number): Promise<void> {
  if (!store.cipher) return store.data.zero(host, end - start);
  return writeZeros({ start, end }, (guest, zeros) => writeBytes(store, { guest, host: host + guest - start }, zeros));
}
