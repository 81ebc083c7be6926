import type { Random } from './model.ts';

/** One way to spoil a file: `apply` takes a copy of it, and returns what it became. */
export interface Mutation {
  name: string;
  apply(bytes: Buffer): Buffer;
}

/** A number in a file, big-endian unless it is `little`. */
export interface Field {
  name: string;
  offset: number;
  /** Bytes. */
  width: 1 | 2 | 4 | 8;
  little?: boolean;
}

/** A part of a file. */
export interface Region {
  name: string;
  offset: number;
  length: number;
}

export function readField(bytes: Buffer, { offset, width, little = false }: Field): bigint {
  if (width === 8) return little ? bytes.readBigUInt64LE(offset) : bytes.readBigUInt64BE(offset);
  return BigInt(little ? bytes.readUIntLE(offset, width) : bytes.readUIntBE(offset, width));
}

function writeField(bytes: Buffer, { offset, width, little = false }: Field, value: bigint): void {
  const fitted = BigInt.asUintN(width * 8, value);
  if (width === 8 && little) bytes.writeBigUInt64LE(fitted, offset);
  else if (width === 8) bytes.writeBigUInt64BE(fitted, offset);
  else if (little) bytes.writeUIntLE(Number(fitted), offset, width);
  else bytes.writeUIntBE(Number(fitted), offset, width);
}

/** The field set to `value`, whatever it was. */
export function setField(field: Field, value: bigint): Mutation {
  return {
    name: `${field.name} = 0x${value.toString(16)}`,
    apply(bytes) {
      writeField(bytes, field, value);
      return bytes;
    },
  };
}

/** Each field at the values where checks go wrong, and at `extras` (offsets of other structures, say). */
export function fieldMutations(bytes: Buffer, fields: readonly Field[], extras: readonly bigint[] = []): Mutation[] {
  return fields.flatMap((field) => {
    const now = readField(bytes, field);
    const values = new Set([...borderValues(field, now), ...(field.width >= 4 ? extras : [])]);
    values.delete(now);
    return [...values].map((value) => setField(field, value));
  });
}

function borderValues({ offset, width }: Field, now: bigint): bigint[] {
  const bits = BigInt(width * 8);
  const top = 1n << bits;
  const values = [
    0n,
    1n,
    2n,
    top - 1n,
    top - 2n,
    top >> 1n,
    (top >> 1n) - 1n,
    now + 1n,
    now - 1n,
    now * 2n,
    now ^ 0x200n,
  ];
  if (width === 8) {
    // Around 2^53, where numbers lose bits; the flags at the top of entries; bits 56 to 61, which are reserved.
    values.push((1n << 53n) - 1n, 1n << 53n, now ^ (1n << 62n), now ^ (1n << 63n), now ^ (1n << 56n), BigInt(offset));
  }
  return values.map((value) => BigInt.asUintN(width * 8, value));
}

/** `count` mutations of a few random bytes inside one of the regions each. */
export function randomMutations(random: Random, regions: readonly Region[], count: number): Mutation[] {
  return Array.from({ length: count }, () => randomMutation(random, random.pick(regions)));
}

function randomMutation(random: Random, region: Region): Mutation {
  const edits = Array.from({ length: 1 + random.below(8) }, () => ({
    offset: region.offset + random.below(region.length),
    kind: random.below(4),
    byte: random.below(256),
  }));
  return {
    name: `${region.name}: ${edits.map(({ offset, kind, byte }) => `${offset}:${kind}:${byte}`).join(' ')}`,
    apply(bytes) {
      for (const { offset, kind, byte } of edits) {
        if (offset >= bytes.length) continue;
        bytes[offset] = [byte, bytes[offset] ^ (1 << (byte & 7)), 0, 0xff][kind];
      }
      return bytes;
    },
  };
}

/** The file cut off at each of the lengths. */
export function truncations(lengths: readonly number[]): Mutation[] {
  return [...new Set(lengths)].map((length) => ({
    name: `cut off at ${length}`,
    apply: (bytes: Buffer) => bytes.subarray(0, length),
  }));
}

/** A piece of text in the file put in the place of another, of any length. */
export function replaceText(from: string, to: string): Mutation {
  return {
    name: `${from} becomes ${to.length > 60 ? `${to.slice(0, 60)}… (${to.length} characters)` : to}`,
    apply(bytes) {
      const at = bytes.indexOf(from, 0, 'latin1');
      if (at < 0) return bytes;
      const rest = bytes.subarray(at + from.length);
      return Buffer.concat([bytes.subarray(0, at), Buffer.from(to, 'latin1'), rest]);
    },
  };
}
