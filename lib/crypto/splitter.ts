import { randomBytes } from 'node:crypto';
import { ImageError } from '../core/errors.ts';
import { digest, digestBytes, type HashName } from './hash.ts';

/**
 * The anti-forensic splitter (LUKS On-Disk Format Specification 1.2.3, section 2.4, after Fruhwirth's "TKS1"): blows
 * key material up to many stripes, all of which are needed to have it back, so that destroying any of them destroys it.
 */

/** `key` as `stripes` stripes of its length, all but the last random. */
export function splitKey(hash: HashName, key: Uint8Array, stripes: number): Buffer {
  checkStripes(stripes);
  const material = randomBytes(key.length * stripes);
  const last = material.subarray(key.length * (stripes - 1));
  combine(hash, material, key.length, stripes - 1).copy(last);
  xorInto(last, key);
  return material;
}

/** The key of `length` bytes that `splitKey` has split: `material` has `length * stripes` bytes. */
export function mergeKey(hash: HashName, material: Buffer, length: number, stripes: number): Buffer {
  checkStripes(stripes);
  if (material.length !== length * stripes) {
    throw new ImageError('invalid', `${stripes} stripes of ${length} bytes are not ${material.length} bytes`);
  }
  const key = combine(hash, material, length, stripes - 1);
  xorInto(key, material.subarray(length * (stripes - 1)));
  return key;
}

/** d_n of the specification: each of the first `count` stripes added and diffused in turn. */
function combine(hash: HashName, material: Buffer, length: number, count: number): Buffer {
  const state = Buffer.alloc(length);
  for (let stripe = 0; stripe < count; stripe += 1) {
    xorInto(state, material.subarray(stripe * length, (stripe + 1) * length));
    diffuse(hash, state);
  }
  return state;
}

/** H1 of the specification: each piece of a digest's size becomes the digest of its number and itself. */
function diffuse(hash: HashName, state: Buffer): void {
  const size = digestBytes(hash);
  const number = Buffer.alloc(4);
  for (let at = 0, index = 0; at < state.length; at += size, index += 1) {
    number.writeUInt32BE(index);
    const piece = state.subarray(at, at + size);
    digest(hash, number, piece).copy(piece);
  }
}

function xorInto(state: Buffer, other: Uint8Array): void {
  for (let index = 0; index < state.length; index += 1) state[index] ^= other[index];
}

function checkStripes(stripes: number): void {
  if (!Number.isInteger(stripes) || stripes < 1) {
    throw new ImageError('invalid', `A key can't be split into ${stripes} stripes`);
  }
}
