import test, { type ExecutionContext } from 'ava';
import { drivers } from '../../lib/formats/index.ts';
import { openImage } from '../../lib/sources/open.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { WrappedStorage } from '../../lib/storage/wrapped.ts';
import { Random } from '../support/model.ts';
import { type Field, fieldMutations, type Mutation, randomMutations } from '../support/mutate.ts';
import {
  batEntry,
  LOG_GUID,
  makeVhdx,
  seal,
  VHDX_PLACES,
  type VhdxLogEntry,
  type VhdxRecipe,
  WRITE_GUID,
  writeLogEntry,
} from '../support/vhdx.ts';
import { exercise } from './exercise.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const { log: LOG, bat: BAT, metadata: METADATA } = VHDX_PLACES;

/** Every so many of the mutations are tried: files of megabytes take their time. */
const STEP = 2;

async function spoil(t: ExecutionContext, bytes: Buffer, all: readonly Mutation[], repair: (bytes: Buffer) => void) {
  const cases = all.filter((_, index) => index % STEP === 0);
  let refused = 0;
  for (const { name, apply } of cases) {
    const spoilt = apply(Buffer.from(bytes));
    repair(spoilt);
    const outcome = await exercise('spoilt.vhdx', 'vhdx', spoilt);
    t.deepEqual(outcome.faults, [], name);
    // Some are refused for writing whatever is in them.
    if (outcome.refused.some(({ step }) => step !== 'write')) refused += 1;
  }
  t.true(refused > 0 && refused < cases.length, `${refused} of ${cases.length} refused`);
}

function field(name: string, offset: number, width: Field['width']): Field {
  return { name, offset, width, little: true };
}

/** A log of two entries, one with two data descriptors and a zero descriptor. */
function dirty(): { bytes: Buffer; length: number } {
  const sector = Buffer.alloc(4096);
  batEntry(6, VHDX_PLACES.blocks).copy(sector);
  const update = { offset: BAT, bytes: sector };
  const clear = { offset: BAT + 8192, zeros: 4096 };
  const log: VhdxLogEntry[] = [
    { place: 0, sequence: 4n, updates: [update] },
    { place: 8192, tail: 0, sequence: 5n, updates: [update, clear, { ...update, offset: BAT + 4096 }] },
  ];
  return {
    bytes: makeVhdx({ size: MIB, blocks: { 0: { state: 6, bytes: Buffer.alloc(MIB, 1) } }, log }),
    length: 12_288,
  };
}

test('a log with any field spoilt gives a disk or a clear error, with checksums that are right and wrong', async (t) => {
  const { bytes, length } = dirty();
  const entry = LOG + 8192;
  const fields = [
    field('length', entry + 8, 4),
    field('tail', entry + 12, 4),
    field('sequence', entry + 16, 8),
    field('descriptors', entry + 24, 4),
    field('flushed size', entry + 48, 8),
    field('last size', entry + 56, 8),
    field('offset of data', entry + 64 + 16, 8),
    field('sequence of data', entry + 64 + 24, 8),
    field('length of zeros', entry + 96 + 8, 8),
    field('offset of zeros', entry + 96 + 16, 8),
    field('sector sequence', entry + 4096 + 4, 4),
  ];
  const cases = fieldMutations(bytes, fields, [BigInt(LOG), BigInt(BAT), 64n * 1024n, 4096n, 2n ** 46n]);
  await spoil(t, bytes, cases, (spoilt) => seal(spoilt, entry, length));
});

test('a log of random bytes gives a disk or a clear error', async (t) => {
  const { bytes, length } = dirty();
  const regions = [
    { name: 'entry', offset: LOG + 8192, length: 200 },
    { name: 'sectors', offset: LOG, length: 8192 + length },
  ];
  const random = new Random(20);
  await spoil(t, bytes, randomMutations(random, regions, 120), (spoilt) => {
    if (random.below(2) === 0) seal(spoilt, LOG + 8192, length);
    if (random.below(2) === 0) seal(spoilt, LOG, 8192);
  });
});

test('a differencing disk with spoilt locator, bitmap and entries gives a disk or a clear error', async (t) => {
  const recipe: VhdxRecipe = {
    size: 2 * MIB,
    parent: { linkage: WRITE_GUID, paths: { absolute_win32_path: 'C:\\' } },
    blocks: { 0: { state: 7, bytes: Buffer.alloc(MIB, 1), sectors: [true, false, true] } },
  };
  const bytes = makeVhdx(recipe);
  const locator = METADATA + bytes.readUInt32LE(METADATA + 32 + 5 * 32 + 16);
  const fields = [
    field('item offset', METADATA + 32 + 5 * 32 + 16, 4),
    field('item length', METADATA + 32 + 5 * 32 + 20, 4),
    field('type', locator, 4),
    field('count', locator + 18, 2),
    field('key offset', locator + 20, 4),
    field('value offset', locator + 24, 4),
    field('key length', locator + 28, 2),
    field('value length', locator + 30, 2),
    field('payload entry', BAT, 8),
    field('bitmap entry', BAT + 8 * 4096, 8),
    field('flags', METADATA + 64 * KIB + 4, 4),
  ];
  const places = [BigInt(BAT) + 6n, BigInt(BAT) + 7n, 2n ** 50n + 6n, 7n];
  await spoil(t, bytes, fieldMutations(bytes, fields, places), () => {});
});

/** Counts the bytes that are read. */
class Meter extends WrappedStorage {
  bytes = 0;
  override read(offset: number, buffer: Buffer): Promise<void> {
    this.bytes += buffer.length;
    return this.inner.read(offset, buffer);
  }
}

/** A file with a log of that length, behind all else, into which `fill` writes. */
function withLongLog(length: number, fill: (log: Buffer) => void): Buffer {
  const file = makeVhdx({ size: MIB, log: [] });
  const long = Buffer.alloc(length);
  fill(long);
  for (const header of [64 * KIB, 128 * KIB]) {
    file.writeUInt32LE(length, header + 68);
    file.writeBigUInt64LE(BigInt(file.length), header + 72);
    seal(file, header, 4096);
  }
  return Buffer.concat([file, long]);
}

const LENGTH = 8 * MIB;

/** Logs that would cost a walk over all of the log for each of their sectors, if they were believed. */
const LABYRINTHS: Readonly<Record<string, (log: Buffer) => void>> = {
  'entries that follow each other, and whose tails lead nowhere': (log) => {
    const one = entryBytes({ place: 0, tail: log.length - 4096, sequence: 1n, updates: [] });
    for (let at = 0; at < log.length - 4096; at += 4096) {
      one.writeBigUInt64LE(BigInt(at / 4096 + 1), 16);
      seal(one, 0, 4096);
      one.copy(log, at);
    }
  },
  'entries that all reach to the end of the log': (log) => {
    const one = entryBytes({ place: 0, sequence: 9n, updates: [] });
    for (let at = 0; at < log.length; at += 4096) {
      one.writeUInt32LE(log.length - at, 8);
      one.copy(log, at);
    }
  },
  'entries of thousands of descriptors that overlap': (log) => {
    const one = entryBytes({ place: 0, sequence: 9n, updates: [] });
    for (let at = 0; at < log.length; at += 4096) {
      one.writeUInt32LE(log.length - at, 8);
      one.writeUInt32LE(Math.max(0, Math.floor((log.length - at - 4096) / 32)), 24);
      one.copy(log, at);
    }
  },
};

function entryBytes(entry: VhdxLogEntry): Buffer {
  const file = Buffer.alloc(LOG + MIB);
  writeLogEntry(file, entry, LOG_GUID);
  return Buffer.from(file.subarray(LOG, LOG + 4096));
}

for (const [title, fill] of Object.entries(LABYRINTHS)) {
  test(`a long log of ${title} is read a few times at the most`, async (t) => {
    const meter = new Meter(memoryStorage('labyrinth', withLongLog(LENGTH, fill)));
    const opening = openImage('labyrinth', { drivers: drivers(), format: 'vhdx', storage: meter });
    await t.throwsAsync(opening, { name: 'ImageError', message: /no valid sequence/ });
    t.true(meter.bytes < 4 * LENGTH, `${meter.bytes} bytes`);
  });
}
