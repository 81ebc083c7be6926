import { randomUUID } from 'node:crypto';

export const GUID_LENGTH = 16;

/** All zeros: no log. */
export const NO_GUID = '00000000-0000-0000-0000-000000000000';

/** How many bytes each part of the text has; the first three are numbers, and so little-endian. */
const PARTS = [4, 2, 2, 2, 6] as const;
const NUMBERS = 3;

/** A GUID as text in lower case. */
export function readGuid(buffer: Buffer, at: number): string {
  let from = at;
  return PARTS.map((length, index) => {
    const part = Buffer.from(buffer.subarray(from, from + length));
    from += length;
    return (index < NUMBERS ? part.reverse() : part).toString('hex');
  }).join('-');
}

/** Writes a GUID given as text. */
export function writeGuid(buffer: Buffer, at: number, guid: string): void {
  let to = at;
  guid.split('-').forEach((text, index) => {
    const part = Buffer.from(text, 'hex');
    (index < NUMBERS ? part.reverse() : part).copy(buffer, to);
    to += part.length;
  });
}

/** A new one. */
export function newGuid(): string {
  return randomUUID();
}
