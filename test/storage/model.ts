import fc from 'fast-check';
import type { HostRange, Storage } from '../../lib/storage/storage.ts';

/** What can be done to a storage; offsets and lengths are bytes. */
export type Step =
  | { operation: 'write'; offset: number; length: number; seed: number }
  | { operation: 'writev'; offset: number; lengths: number[]; seed: number }
  | { operation: 'zero'; offset: number; length: number; unmap: boolean }
  | { operation: 'discard' | 'allocate'; offset: number; length: number }
  | { operation: 'truncate'; size: number }
  | { operation: 'flush' };

const LIMIT = 256 * 1024;

// Half of all positions lie at or beside a multiple of the sizes that matter.
const position = fc.oneof(
  fc.integer({ min: 0, max: LIMIT }),
  fc
    .tuple(fc.integer({ min: 0, max: LIMIT / 4096 }), fc.constantFrom(-1, 0, 1))
    .map(([n, d]) => Math.max(0, n * 4096 + d)),
);
const length = fc.oneof(fc.integer({ min: 1, max: 70_000 }), fc.constantFrom(1, 512, 4096, 65_536));

export const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof<fc.Arbitrary<Step>[]>(
    fc.record({ operation: fc.constant('write' as const), offset: position, length, seed: fc.nat(255) }),
    fc.record({
      operation: fc.constant('writev' as const),
      offset: position,
      lengths: fc.array(fc.integer({ min: 0, max: 9000 }), { maxLength: 5 }),
      seed: fc.nat(255),
    }),
    fc.record({ operation: fc.constant('zero' as const), offset: position, length, unmap: fc.boolean() }),
    fc.record({ operation: fc.constantFrom('discard' as const, 'allocate' as const), offset: position, length }),
    fc.record({ operation: fc.constant('truncate' as const), size: position }),
    fc.record({ operation: fc.constant('flush' as const) }),
  ),
  { minLength: 1, maxLength: 25 },
);

/** Bytes that are never zero and differ from place to place. */
export function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at += 1) bytes[at] = 1 + ((at * 7 + seed + (at >> 8)) % 255);
  return bytes;
}

/** Does the steps to a storage and to a plain buffer, and throws where the two differ at the end. */
export async function followModel(storage: Storage, all: readonly Step[]): Promise<void> {
  let model = Buffer.alloc(0);
  const grow = (size: number) => {
    if (size > model.length) model = Buffer.concat([model, Buffer.alloc(size - model.length)]);
  };
  for (const step of all) {
    switch (step.operation) {
      case 'write': {
        const bytes = pattern(step.length, step.seed);
        await storage.write(step.offset, bytes);
        grow(step.offset + step.length);
        bytes.copy(model, step.offset);
        break;
      }
      case 'writev': {
        const buffers = step.lengths.map((each, index) => pattern(each, step.seed + index));
        const bytes = Buffer.concat(buffers);
        await storage.writev(step.offset, buffers);
        if (bytes.length > 0) grow(step.offset + bytes.length);
        bytes.copy(model, step.offset);
        break;
      }
      case 'zero':
        await storage.zero(step.offset, step.length, { unmap: step.unmap });
        grow(step.offset + step.length);
        model.fill(0, step.offset, step.offset + step.length);
        break;
      case 'discard':
        // What it reads as is nobody's promise: zeros make it one.
        await storage.discard(step.offset, step.length);
        if (step.offset < storage.size) {
          const inside = Math.min(step.length, storage.size - step.offset);
          await storage.zero(step.offset, inside);
          model.fill(0, step.offset, step.offset + inside);
        }
        break;
      case 'allocate':
        await storage.allocate(step.offset, step.length);
        grow(step.offset + step.length);
        break;
      case 'truncate':
        await storage.truncate(step.size);
        model = Buffer.from(model.subarray(0, step.size));
        grow(step.size);
        break;
      case 'flush':
        await storage.flush();
        break;
    }
  }
  await compare(storage, model);
}

async function compare(storage: Storage, model: Buffer): Promise<void> {
  if (storage.size !== model.length) throw new Error(`size is ${storage.size}, not ${model.length}`);
  const bytes = Buffer.alloc(storage.size);
  await storage.read(0, bytes);
  if (!bytes.equals(model)) throw new Error(`differs at ${bytes.findIndex((byte, at) => byte !== model[at])}`);
  for (const { offset, length, hole } of await wholeMap(storage, model.length + 10_000)) {
    const part = model.subarray(offset, offset + length);
    if (hole && !part.every((byte) => byte === 0)) throw new Error(`the hole at ${offset} holds data`);
  }
}

/** All ranges of a storage up to `length`; throws unless they cover it without gap or overlap. */
export async function wholeMap(storage: Storage, length: number): Promise<HostRange[]> {
  const all: HostRange[] = [];
  for (let at = 0; at < length; ) {
    const some = await storage.holes(at, length - at);
    if (some.length === 0) throw new Error(`nothing is told of ${at}`);
    for (const range of some) {
      if (range.offset !== at || range.length <= 0)
        throw new Error(`the range at ${range.offset} should begin at ${at}`);
      at += range.length;
      all.push(range);
    }
  }
  return all;
}
