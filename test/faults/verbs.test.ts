import { existsSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { createImage } from '../../lib/formats/create.ts';
import { driverNamed, drivers } from '../../lib/formats/index.ts';
import { compare } from '../../lib/pipelines/compare.ts';
import { convert } from '../../lib/pipelines/convert.ts';
import { dd } from '../../lib/pipelines/dd.ts';
import { map } from '../../lib/pipelines/map.ts';
import { measure } from '../../lib/pipelines/measure.ts';
import type { NodeSpec } from '../../lib/sources/filename.ts';
import { type FaultPlan, type FaultyOperation, faultyStorage } from '../../lib/storage/faulty.ts';
import { openFile } from '../../lib/storage/file.ts';
import { registerProtocol } from '../../lib/storage/index.ts';
import { factsOf, SECRETS as secrets } from '../conformance/facts.ts';
import { pattern } from '../support/model.ts';
import { withTmpDir } from '../support/tmp.ts';

// Three times the largest read, so that a file that shrinks between reads has reads left to fail.
const SIZE = 6 * 1024 * 1024;

/** What is to happen to the files opened through the protocols below, by path. */
const plans = new Map<string, FaultPlan>();

registerProtocol({
  name: 'faulty',
  creates: true,
  async open({ filename = '' }, options) {
    return faultyStorage(await openFile(filename, options), plans.get(filename) ?? {});
  },
});

/** Cuts the file in half once something has been read behind its first quarter. */
registerProtocol({
  name: 'shrinking',
  creates: false,
  async open({ filename = '' }, options) {
    const storage = await openFile(filename, options);
    const read = storage.read.bind(storage);
    const half = Math.floor(storage.size / 2);
    let cut = false;
    storage.read = async (offset, buffer) => {
      await read(offset, buffer);
      if (cut || offset < half / 2) return;
      cut = true;
      truncateSync(filename, half);
    };
    return storage;
  },
});

function node(driver: string, protocol: string, filename: string): NodeSpec {
  const options = { ...needsOf(driver)?.open };
  return { driver, file: { driver: protocol, filename }, options, backing: undefined, filename };
}

function needsOf(format: string) {
  return factsOf(driverNamed(format)).needs;
}

/** The formats that can be written, with options that make many tables of a small disk. */
const OPTIONS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  qcow2: { cluster_size: '4096' },
  qed: { cluster_size: '4096', table_size: '2' },
  parallels: { cluster_size: '4096' },
  vhdx: { block_size: '1048576' },
  vpc: { force_size: 'on' },
  luks: { 'iter-time': '10' },
};

function optionsOf(format: string): Readonly<Record<string, string>> {
  return { ...needsOf(format)?.create, ...OPTIONS[format] };
}

const FORMATS = drivers()
  .filter(({ create }) => create !== undefined)
  .map(({ name }) => name);

/** A raw image and one of the format, of the same disk: data, zeros, data. */
async function makeSources(directory: string, format: string): Promise<{ raw: string; path: string }> {
  const raw = join(directory, 'source.raw');
  const path = join(directory, `source.${format}`);
  const disk = Buffer.concat([pattern(SIZE / 3, 1), Buffer.alloc(SIZE / 3), pattern(SIZE / 3, 2)]);
  writeFileSync(raw, disk);
  if (format === 'raw') return { raw, path };
  const options = optionsOf(format);
  const target = await createImage({ filename: path, format, size: SIZE, options, secrets, cache: 'unsafe' });
  await target.write(0, disk.subarray(0, SIZE / 3));
  await target.write((SIZE / 3) * 2, disk.subarray((SIZE / 3) * 2));
  await target.close();
  return { raw, path };
}

function assertReason(t: ExecutionContext, error: unknown, code: string, what: string): void {
  if (error instanceof ImageError) t.is(error.code, code, `${what}: ${error.message}`);
  else t.fail(`${what}: ${(error as Error)?.stack ?? 'succeeded'}`);
}

/** Fails each operation of the kind in turn, until a run no longer has as many of them. Returns how often it failed. */
async function failEach(
  t: ExecutionContext,
  path: string,
  operation: FaultyOperation,
  run: () => Promise<unknown>,
  look: (what: string) => void = () => {},
): Promise<number> {
  for (let nth = 1; ; nth += 1) {
    const what = `${operation} ${nth} of ${path}`;
    plans.set(path, { faults: [{ operation, nth, code: 'EIO' }] });
    const error = await run().then(
      () => null,
      (reason) => reason,
    );
    plans.delete(path);
    if (error === null) return nth - 1;
    assertReason(t, error, 'EIO', what);
    look(what);
  }
}

for (const format of FORMATS) {
  test(`a read error of a ${format} input fails every verb, and leaves no output`, async (t) => {
    await withTmpDir(async (directory) => {
      const { raw, path } = await makeSources(directory, format);
      const out = join(directory, 'out');
      const input = node(format, 'faulty', path);
      const other = { filename: raw, format: 'raw' };
      const absent = (what: string) => t.false(existsSync(out), what);
      const afresh = (run: () => Promise<unknown>) => () => {
        rmSync(out, { force: true });
        return run();
      };
      const output = { filename: out };
      for (const outputFormat of ['raw', 'qcow2']) {
        const converting = afresh(() => convert({ inputs: [input], output, outputFormat, secrets }));
        t.true((await failEach(t, path, 'read', converting, absent)) > 0);
        const copying = afresh(() => dd({ input, output, outputFormat, blockSize: 65536, secrets }));
        t.true((await failEach(t, path, 'read', copying, absent)) > 0);
      }
      t.true((await failEach(t, path, 'read', () => compare({ left: input, right: other, secrets }))) > 0);
      t.true((await failEach(t, path, 'read', () => compare({ left: other, right: input, secrets }))) > 0);
      if (format === 'raw') return;
      t.true((await failEach(t, path, 'read', () => measure({ image: input, outputFormat: 'qcow2', secrets }))) > 0);
      t.true((await failEach(t, path, 'read', () => walk(input))) > 0);
    });
  });

  test(`a failure of a new ${format} output fails convert and dd, and leaves no output`, async (t) => {
    await withTmpDir(async (directory) => {
      const { raw } = await makeSources(directory, format);
      const out = join(directory, 'out');
      const output = node(format, 'faulty', out);
      const input = { filename: raw, format: 'raw' };
      const createOptions = optionsOf(format);
      const verbs: Record<string, () => Promise<unknown>> = {
        convert: () => convert({ inputs: [input], output, createOptions, secrets, cache: 'writeback' }),
      };
      // `dd` has no options for what it makes.
      if (Object.keys(needsOf(format)?.create ?? {}).length === 0)
        verbs.dd = () => dd({ input, output, outputFormat: format });
      for (const [verb, run] of Object.entries(verbs)) {
        const afresh = () => {
          rmSync(out, { force: true });
          return run();
        };
        for (const operation of ['write', 'truncate', 'close'] as const) {
          // After close(2) has failed, all has been written and told to the disk, and there is no descriptor any more.
          const look = (what: string) => t.true(operation === 'close' || !existsSync(out), `${verb}: ${what}`);
          const failures = await failEach(t, out, operation, afresh, look);
          // A new file that is filled to its end need not be truncated.
          t.true(failures > 0 || operation === 'truncate', `${verb}: ${operation}`);
        }
        for (const capacity of [0, 1, 5000, 700_000, 1_400_000]) {
          plans.set(out, { capacity });
          const error = await afresh().then(
            () => null,
            (reason) => reason,
          );
          plans.delete(out);
          assertReason(t, error, 'ENOSPC', `${verb}: ${capacity} bytes`);
          t.false(existsSync(out), `${verb}: ${capacity} bytes`);
        }
      }
    });
  });

  test(`a ${format} input that shrinks while it is read fails convert and leaves no output, or was read before`, async (t) => {
    for (const outputFormat of ['raw', 'qcow2']) {
      await withTmpDir(async (directory) => {
        const { raw, path } = await makeSources(directory, format);
        const output = { filename: join(directory, 'out') };
        const inputs = [node(format, 'shrinking', path)];
        const error = await convert({ inputs, output, outputFormat, secrets, parallel: 1 }).then(
          () => null,
          (reason) => reason,
        );
        t.is(existsSync(output.filename), error === null, outputFormat);
        if (error !== null) return void t.true(error instanceof ImageError, String(error));
        // Where data lie close together, two reads may be all.
        t.false(format === 'raw' || format === 'qcow2');
        const { identical } = await compare({ left: { filename: raw, format: 'raw' }, right: output });
        t.true(identical, outputFormat);
      });
    }
  });
}

async function walk(image: NodeSpec): Promise<void> {
  for await (const entry of map({ image, secrets })) if (entry.length === 0) throw new Error('an empty entry');
}
