import { randomUUID } from 'node:crypto';

/** A new random UUID as GUIDs are stored: the first three fields are little-endian. */
export function newUuid(): Buffer {
  const bytes = Buffer.from(randomUUID().replaceAll('-', ''), 'hex');
  bytes.subarray(0, 4).reverse();
  bytes.subarray(4, 6).reverse();
  bytes.subarray(6, 8).reverse();
  return bytes;
}
