import { ImageError } from '../../lib/core/errors.ts';
import { driverNamed, drivers } from '../../lib/formats/index.ts';
import type { Target } from '../../lib/sinks/target.ts';
import { parseFilename } from '../../lib/sources/filename.ts';
import { createGate } from '../../lib/sources/gate.ts';
import { type OpenedImage, openImage } from '../../lib/sources/open.ts';
import type { Source } from '../../lib/sources/source.ts';
import { type MemoryStorage, memoryStorage } from '../../lib/storage/memory.ts';
import { factsOf, SECRETS } from '../conformance/facts.ts';

/** What came of one file: how often each step worked or was refused, and what must not have happened. */
export interface Outcome {
  /** Steps that gave an ImageError, with its message. */
  refused: { step: string; error: ImageError }[];
  /** Steps that worked. */
  worked: number;
  faults: string[];
}

/** Guest bytes looked at from the start; the rest is sampled, since a mutated size may be anything. */
const READ_BYTES = 1536 * 1024;
const READ_PIECE = 256 * 1024;
/** Calls of map() for one disk: enough for every table that a small file can hold. */
const MAP_CALLS = 400;
const SAMPLED_EXTENTS = 24;

/** Spoilt names must not lead out of the directory: what is found there would be written to. */
function implicit(reference: string): boolean {
  return !/[/:]/.test(reference) && reference !== '..';
}

/**
 * Does with a file everything that can be done with an image: open, map, read, describe, open snapshots, and on a
 * copy open for writing and write. Each step may work or be refused by an ImageError; everything else is a fault.
 */
export async function exercise(name: string, format: string, bytes: Buffer): Promise<Outcome> {
  const outcome: Outcome = { refused: [], worked: 0, faults: [] };
  const storage = memoryStorage(name, bytes);
  await attempt(outcome, 'read', () => exerciseSource(outcome, name, format, storage));
  if (!storedBytes(storage, bytes.length).equals(bytes)) outcome.faults.push('reading changed the file');
  const { openTarget } = driverNamed(format);
  if (openTarget === undefined) return outcome;
  // Only for its backing file: its own data file is about to be written to by way of the copy.
  const image = await opened(name, format, memoryStorage(name, bytes), true).catch(() => null);
  const backing = image?.backing?.chain ?? null;
  const again = memoryStorage(name, bytes);
  const open = () =>
    openTarget({
      storage: again,
      options: { ...factsOf(driverNamed(format)).needs?.open },
      secrets: SECRETS,
      writable: true,
      cache: 'writeback',
      gate: createGate({ implicit }),
      backing,
    });
  await attempt(outcome, 'write', () => exerciseTarget(outcome, open, again, bytes));
  await image?.close();
  return outcome;
}

/** Bytes of a storage that may be closed already. */
function storedBytes(storage: MemoryStorage, expected: number): Buffer {
  return storage.size === expected ? storage.bytes() : Buffer.alloc(0);
}

/** Runs one step; its failure is an ordinary refusal only if it is an ImageError that names file and format. */
async function attempt(outcome: Outcome, step: string, action: () => Promise<unknown>): Promise<boolean> {
  try {
    await action();
    outcome.worked += 1;
    return true;
  } catch (error) {
    if (!(error instanceof ImageError)) {
      outcome.faults.push(`${step}: ${error instanceof Error ? error.stack : String(error)}`);
      return false;
    }
    outcome.refused.push({ step, error });
    if (error.file === undefined) outcome.faults.push(`${step}: no file in: ${error.message}`);
    if (error.format === undefined && !isElsewhere(error))
      outcome.faults.push(`${step}: no format in: ${error.message}`);
    return false;
  }
}

/** What fails is the backing file, whose format nobody knows unless it can be opened. */
function isElsewhere(error: ImageError): boolean {
  return error.message.includes('Could not open backing file: ');
}

function opened(name: string, format: string, storage: MemoryStorage, forceShare = false): Promise<OpenedImage> {
  const node = { ...parseFilename(name), options: { ...factsOf(driverNamed(format)).needs?.open } };
  return openImage(node, { drivers: drivers(), format, implicit, storage, forceShare, secrets: SECRETS });
}

async function exerciseSource(outcome: Outcome, name: string, format: string, storage: MemoryStorage): Promise<void> {
  const image = await opened(name, format, storage);
  try {
    await exerciseDisk(outcome, image.source, '');
    await attempt(outcome, 'chain', () => image.chain.read(0, Buffer.alloc(Math.min(image.chain.size, READ_PIECE))));
    await attempt(outcome, 'describe', () => image.source.describe());
    for (const idOrName of ['1', 'first', 'the second one']) {
      await attempt(outcome, 'snapshot', () => exerciseSnapshot(outcome, image.source, idOrName));
    }
  } finally {
    await attempt(outcome, 'close', () => image.close());
  }
}

async function exerciseSnapshot(outcome: Outcome, source: Source, idOrName: string): Promise<void> {
  if (source.openSnapshot === undefined) return;
  const snapshot = await source.openSnapshot({ idOrName });
  await exerciseDisk(outcome, snapshot, 'snapshot ');
  await snapshot.close();
}

async function exerciseDisk(outcome: Outcome, source: Source, prefix: string): Promise<void> {
  const sampled: number[] = [];
  await attempt(outcome, `${prefix}map`, () => mapAll(outcome, source, sampled));
  for (let at = 0; at < Math.min(source.size, READ_BYTES); at += READ_PIECE) {
    const length = Math.min(READ_PIECE, source.size - at);
    await attempt(outcome, `${prefix}read`, () => source.read(at, Buffer.alloc(length)));
  }
  for (const offset of [...sampled, Math.max(0, source.size - 700)]) {
    const length = Math.min(1000, source.size - offset);
    if (length > 0) await attempt(outcome, `${prefix}read`, () => source.read(offset, Buffer.alloc(length)));
  }
}

/** Walks the whole map, as far as the bound allows, and checks what every caller relies on. */
async function mapAll(outcome: Outcome, source: Source, sampled: number[]): Promise<void> {
  let at = 0;
  for (let call = 0; call < MAP_CALLS && at < source.size; call += 1) {
    const extents = await source.map(at, source.size - at);
    if (extents.length === 0) return void outcome.faults.push(`map(${at}) gives nothing`);
    for (const { offset, length, kind } of extents) {
      if (offset !== at || !(length > 0) || offset + length > source.size) {
        return void outcome.faults.push(
          `map: extent of ${length} bytes at ${offset}, expected at ${at} of ${source.size}`,
        );
      }
      if (kind === 'data' && sampled.length < SAMPLED_EXTENTS && offset >= READ_BYTES) sampled.push(offset);
      at += length;
    }
  }
}

async function exerciseTarget(
  outcome: Outcome,
  open: () => Promise<Target>,
  storage: MemoryStorage,
  bytes: Buffer,
): Promise<void> {
  let target: Target;
  try {
    target = await open();
  } catch (error) {
    if (!storedBytes(storage, bytes.length).equals(bytes))
      outcome.faults.push('a refused open for writing changed the file');
    throw error;
  }
  await exerciseWrites(outcome, target);
  if (!(await attempt(outcome, 'close target', () => target.close()))) {
    await attempt(outcome, 'abort', () => target.abort());
  }
}

async function exerciseWrites(outcome: Outcome, target: Target): Promise<void> {
  const { size, granularity } = target;
  const piece = (offset: number, length: number) => Buffer.alloc(Math.max(0, Math.min(length, size - offset)), 0xa5);
  for (const offset of [0, granularity + 100, 3 * granularity, size / 2 - ((size / 2) % 512), size - 512]) {
    const buffer = piece(offset, 5000);
    if (offset < 0 || buffer.length === 0) continue;
    const wrote = await attempt(outcome, 'write', () => target.write(offset, buffer));
    if (wrote) await attempt(outcome, 'read back', () => readBack(target, offset, buffer.length));
  }
  const length = Math.min(size, 2 * granularity);
  if (length > 0) {
    await attempt(outcome, 'zero', () => target.zero(0, length, { unmap: true }));
    await attempt(outcome, 'discard', async () => target.discard?.(0, length));
  }
  await attempt(outcome, 'compressed', () => writeCompressed(target));
  await attempt(outcome, 'flush', () => target.flush());
}

async function readBack(target: Target, offset: number, length: number): Promise<void> {
  await target.source?.read(offset, Buffer.alloc(length));
}

async function writeCompressed(target: Target): Promise<void> {
  const { compressor } = target;
  if (compressor === undefined || target.size < compressor.unit) return;
  const packed = await compressor.compress(Buffer.alloc(compressor.unit, 7));
  if (packed !== null) await target.writeCompressed?.(0, compressor.unit, packed);
}
