import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { ImageError } from '../../../lib/core/errors.ts';
import { openQcow2 } from '../../../lib/sources/qcow2/index.ts';
import type { Gate, Source } from '../../../lib/sources/source.ts';
import { memoryStorage } from '../../../lib/storage/memory.ts';
import { withTmpDir } from '../../support/tmp.ts';
import { qemuImg, qemuIo } from '../oracle.ts';

const KINDS = ['compat=0.10', 'cluster_size=4096', 'extended_l2=on', 'compression_type=zstd'];
const READ = 256 * 1024;

/** A small image with every kind of cluster and a snapshot, as bytes. */
function makeImage(directory: string, options: string): Buffer {
  const file = join(directory, 'image.qcow2');
  qemuImg.expect(['create', '-q', '-f', 'qcow2', '-o', options, file, '1M']);
  const commands = ['write -P 1 0 128k', 'write -c -P 2 256k 128k', 'write -P 3 600k 1k'];
  if (!options.includes('0.10')) commands.push('write -z 512k 64k');
  qemuIo.expect(['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), file]);
  qemuImg.expect(['snapshot', '-c', 'one', file]);
  qemuIo.expect(['-f', 'qcow2', '-c', 'write -P 4 64k 64k', file]);
  return readFileSync(file);
}

const gate: Gate = {
  openStorage: async (reference) => {
    throw new ImageError('refused', `'${reference}' is not opened here`);
  },
};

async function look(bytes: Buffer): Promise<void> {
  const storage = memoryStorage('mutant', bytes);
  const source = await openQcow2({ storage, options: {}, writable: false, cache: 'writeback', gate });
  await source.describe();
  await lookAtDisk(source);
  await lookAtDisk(await source.openSnapshot({ idOrName: 'one' }));
}

async function lookAtDisk(disk: Source): Promise<void> {
  const length = Math.min(disk.size, 1024 * 1024);
  let at = 0;
  for (let calls = 0; at < disk.size && calls < 100; calls += 1) {
    for (const each of await disk.map(at, disk.size - at)) {
      if (each.offset !== at || each.length < 1) throw new Error(`map leaves a gap at ${at}`);
      at += each.length;
    }
  }
  if (at > disk.size) throw new Error('map goes past the end');
  for (let from = 0; from < length; from += READ) await disk.read(from, Buffer.alloc(Math.min(READ, length - from)));
}

/** Where it hurts: header fields and extensions, the tables, and anywhere. */
function places(bytes: Buffer): fc.Arbitrary<number> {
  const l1 = Number(bytes.readBigUInt64BE(40));
  const l2 = Number(bytes.readBigUInt64BE(l1) & 0xffffffffffff00n);
  const snapshots = Number(bytes.readBigUInt64BE(64));
  return fc.oneof(
    fc.integer({ min: 0, max: 300 }),
    fc.integer({ min: 4, max: 112 }),
    fc.integer({ min: l1, max: l1 + 15 }),
    fc.integer({ min: l2, max: Math.min(bytes.length - 1, l2 + 300) }),
    fc.integer({ min: snapshots, max: Math.min(bytes.length - 1, snapshots + 100) }),
    fc.integer({ min: 0, max: bytes.length - 1 }),
  );
}

for (const kind of KINDS) {
  test(`hundreds of mutants of an image with ${kind} read or are refused`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    const good = await withTmpDir((directory) => makeImage(directory, kind));
    await t.notThrowsAsync(look(good), 'the image itself reads');
    const value = fc.oneof(fc.integer({ min: 0, max: 255 }), fc.constantFrom(0, 1, 0x7f, 0x80, 0xff));
    const changes = fc.array(fc.tuple(places(good), value), { minLength: 1, maxLength: 4 });
    const length = fc.oneof({ weight: 5, arbitrary: fc.constant(good.length) }, fc.nat({ max: good.length }));
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(changes, length, async (given, cut) => {
        const bytes = Buffer.from(good.subarray(0, cut));
        for (const [at, byte] of given) if (at < cut) bytes[at] = byte;
        try {
          await look(bytes);
        } catch (error) {
          if (!(error instanceof ImageError)) throw error;
          t.is(error.file, 'mutant', error.message);
          t.is(error.format, 'qcow2', error.message);
          refused += 1;
        }
      }),
      { numRuns: 500 },
    );
    t.true(refused > 50, 'the mutants are bad enough');
  });
}
