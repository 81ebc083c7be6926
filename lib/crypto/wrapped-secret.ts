import { createDecipheriv } from 'node:crypto';
import { ImageError } from '../core/errors.ts';

/** Of AES-256: the key that a wrapped secret is encrypted with. */
const KEY_BYTES = 32;
const BLOCK = 16;
const DIGITS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';

/**
 * Decrypts secrets that are encrypted by another one, the master key: AES-256 in CBC mode, padded as PKCS #7 (RFC 5652,
 * section 6.3) has it. Of the padding only its last byte is looked at, as QEMU does. node:crypto has all that this
 * takes; errors are `invalid` ImageErrors in QEMU's words.
 *
 * @param iv the initialization vector in Base64, which must be there
 */
export function secretUnwrapper(key: Uint8Array, iv: string | undefined): (wrapped: Uint8Array) => Buffer {
  if (key.length !== KEY_BYTES) throw invalid(`Key should be ${KEY_BYTES} bytes in length`);
  if (iv === undefined) throw invalid('IV is required to decrypt secret');
  const vector = decodeBase64(iv);
  if (vector.length !== BLOCK) throw invalid(`IV should be ${BLOCK} bytes in length not ${vector.length}`);
  return (wrapped) => unwrap(wrapped, key, vector);
}

function unwrap(wrapped: Uint8Array, key: Uint8Array, iv: Uint8Array): Buffer {
  if (wrapped.length % BLOCK !== 0) {
    throw invalid(`Length ${wrapped.length} must be a multiple of block size ${BLOCK}`);
  }
  if (wrapped.length === 0) return Buffer.alloc(0);
  const decipher = createDecipheriv('aes-256-cbc', key, iv).setAutoPadding(false);
  const plain = Buffer.concat([decipher.update(wrapped), decipher.final()]);
  const padding = plain[plain.length - 1];
  if (padding > BLOCK) throw invalid(`Incorrect number of padding bytes (${padding}) found on decrypted data`);
  return plain.subarray(0, plain.length - padding);
}

/**
 * Base64 (RFC 4648, section 4) as lenient as QEMU reads it: line feeds are skipped, digits that make no whole group of
 * four are dropped, and a `=` stands for zero bits anywhere; only in a group's last two places it shortens the group.
 * Anything else is an `invalid` ImageError.
 */
export function decodeBase64(text: string): Buffer {
  if (text.includes('\0')) throw invalid('Base64 data contains embedded NUL characters');
  if (/[^A-Za-z0-9+/=\n]/.test(text)) throw invalid('Base64 data contains invalid characters');
  const digits = text.replaceAll('\n', '');
  const bytes: number[] = [];
  for (let at = 0; at + 4 <= digits.length; at += 4) {
    let group = 0;
    for (let index = at; index < at + 4; index += 1) group = group * 64 + Math.max(0, DIGITS.indexOf(digits[index]));
    bytes.push(group >> 16);
    if (digits[at + 2] !== '=') bytes.push((group >> 8) & 0xff);
    if (digits[at + 3] !== '=') bytes.push(group & 0xff);
  }
  return Buffer.from(bytes);
}

function invalid(message: string): ImageError {
  return new ImageError('invalid', message);
}
