import type { ExecutionContext } from 'ava';
import { type Extent, mergeable } from '../../lib/core/extent.ts';
import type { Source } from '../../lib/sources/source.ts';
import type { DiskModel, Random } from '../support/model.ts';

/** Throws unless the source reads as the model says, whole, and in random pieces of any length and place. */
export async function checkReads(source: Source, model: DiskModel, random: Random): Promise<void> {
  if (source.size !== model.size) throw new Error(`the disk has ${source.size} bytes, not ${model.size}`);
  await checkRead(source, model, 0, model.size);
  for (let round = 0; round < 12 && model.size > 0; round += 1) {
    const offset = random.below(model.size);
    await checkRead(source, model, offset, random.below(Math.min(model.size - offset, 200_000) + 1));
  }
  await checkRead(source, model, model.size, 0);
}

export async function checkRead(source: Source, model: DiskModel, offset: number, length: number): Promise<void> {
  // Not zeros beforehand: what a read leaves out must show.
  const found = Buffer.alloc(length, 0xee);
  await source.read(offset, found);
  const at = model.mismatch(offset, found);
  if (at < 0) return;
  throw new Error(`byte ${at} is ${found[at - offset]}, not ${model.bytes[at]} (read of ${length} bytes at ${offset})`);
}

/** The whole of [offset, offset + length), asking as often as it takes. */
export async function collectMap(source: Source, offset: number, length: number): Promise<Extent[]> {
  const all: Extent[] = [];
  for (let at = offset; at < offset + length; ) {
    const answer = await source.map(at, offset + length - at);
    if (answer.length === 0) throw new Error(`map(${at}) gives nothing`);
    checkAnswer(answer, at, offset + length);
    all.push(...answer);
    const last = answer[answer.length - 1];
    at = last.offset + last.length;
  }
  return all;
}

function checkAnswer(answer: readonly Extent[], start: number, end: number): void {
  let at = start;
  answer.forEach((each, index) => {
    const where = `extent of ${each.length} bytes at ${each.offset}`;
    if (each.offset !== at) throw new Error(`${where}: expected at ${at}`);
    if (!Number.isSafeInteger(each.length) || each.length < 1) throw new Error(`${where}: not a length`);
    at += each.length;
    if (at > end) throw new Error(`${where}: reaches beyond ${end}`);
    if (each.payload !== null) throw new Error(`${where}: map read a payload`);
    if (index > 0 && mergeable(answer[index - 1], each)) throw new Error(`${where}: not joined to the one before`);
  });
}

/** Throws unless map() is right for the whole disk and for random parts: see `checkExtent`. */
export async function checkMap(source: Source, model: DiskModel, random: Random): Promise<void> {
  for (const each of await collectMap(source, 0, model.size)) await checkExtent(source, model, each);
  for (let round = 0; round < 12 && model.size > 0; round += 1) {
    const offset = random.below(model.size);
    const length = 1 + random.below(Math.min(model.size - offset, 200_000));
    for (const each of await collectMap(source, offset, length)) await checkExtent(source, model, each);
  }
}

/** What an extent claims: zeros where it says so, and plain bytes where it says they lie. */
async function checkExtent(source: Source, model: DiskModel, each: Extent): Promise<void> {
  const where = `${each.kind} extent of ${each.length} bytes at ${each.offset}`;
  const expected = model.bytes.subarray(each.offset, each.offset + each.length);
  if (each.layer !== source) throw new Error(`${where}: not of this layer`);
  if (each.kind !== 'data' && expected.some((byte) => byte !== 0)) throw new Error(`${where}: the disk has data there`);
  if (each.kind !== 'data' || each.host === null) return;
  if (each.compressed) throw new Error(`${where}: compressed bytes lie nowhere plain`);
  const plain = Buffer.alloc(each.length);
  await each.host.read(each.hostOffset, plain);
  if (!plain.equals(expected)) throw new Error(`${where}: other bytes at ${each.hostOffset} of ${each.host.name}`);
}

/** Reads and map at once, as an assertion. */
export async function assertDisk(t: ExecutionContext, source: Source, model: DiskModel, random: Random): Promise<void> {
  await t.notThrowsAsync(async () => {
    await checkReads(source, model, random);
    await checkMap(source, model, random);
  });
}
