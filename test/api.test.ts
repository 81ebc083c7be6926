import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Transform as NodeTransform } from 'node:stream';
import test from 'ava';
import { Transform } from 'streamx';
import {
  align,
  compress,
  convert,
  create,
  type Driver,
  driverNamed,
  drivers,
  type ExtentBatch,
  extents,
  hash,
  ImageError,
  load,
  memoryStorage,
  open,
  pipeline,
  registerDriver,
  sparseDetect,
  targetWritable,
} from '../lib/index.ts';
import { pattern } from './support/model.ts';
import { withTmpDir } from './support/tmp.ts';
import { tool } from './support/tools.ts';

const MIB = 1024 * 1024;

/** A disk with data, zeros and data. */
function disk(): Buffer {
  return Buffer.concat([pattern(3 * MIB, 1), Buffer.alloc(2 * MIB), pattern(MIB, 2)]);
}

async function copied(...stages: Parameters<typeof pipeline>[0][]): Promise<Buffer> {
  const image = await open('disk', { storage: memoryStorage('disk', disk()), format: 'raw' });
  const out = memoryStorage('out');
  // Closing a memory storage keeps what it holds from nobody who looks before.
  const target = await create('out', { format: 'raw', size: image.size, storage: out });
  await pipeline(extents(image), load(), ...stages, targetWritable(target, { close: false }));
  const bytes = Buffer.alloc(image.size);
  out.bytes().copy(bytes);
  await target.close();
  await image.close();
  return bytes;
}

test('a transform of the user may be a Node stream, may change payloads, and may forget to release', async (t) => {
  const seen: ExtentBatch[] = [];
  const invert = new NodeTransform({
    objectMode: true,
    transform(batch: ExtentBatch, _encoding, callback) {
      seen.push(batch);
      for (const { payload } of batch)
        if (payload !== null) for (let at = 0; at < payload.length; at += 1) payload[at] ^= 255;
      callback(null, batch);
    },
  });
  const expected = disk().map((byte) => byte ^ 255);
  t.true((await copied(invert)).equals(Buffer.from(expected)));
  t.true(seen.length > 0);
});

test('a transform of the user may be a streamx one that makes batches of its own', async (t) => {
  const plain = new Transform({
    transform(data, callback) {
      const batch = data as ExtentBatch;
      const copies = batch.extents.map((each) => ({ ...each, payload: each.payload && Buffer.from(each.payload) }));
      callback(null, batch.with(copies));
    },
  });
  t.true((await copied(plain, sparseDetect())).equals(disk()));
});

test("a user's transform that fails leaves no output behind", async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'out.qcow2');
    const image = await open('disk', { storage: memoryStorage('disk', disk()), format: 'raw' });
    const target = await create(path, { format: 'qcow2', size: image.size });
    const failing = new NodeTransform({
      objectMode: true,
      transform: (_batch, _encoding, callback) => callback(new Error('mine')),
    });
    await t.throwsAsync(pipeline(extents(image), load(), failing, targetWritable(target)), { message: 'mine' });
    await image.close();
    t.false(existsSync(path) && readFileSync(path).length > 0);
  });
});

test('stages compose to a compressed image that qemu-img reads, with a digest on the way', async (t) => {
  const qemuImg = tool('qemu-img');
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const raw = join(directory, 'disk.raw');
    const path = join(directory, 'out.qcow2');
    writeFileSync(raw, disk());
    const image = await open(raw);
    const target = await create(path, { format: 'qcow2', size: image.size, options: { cluster_size: '128k' } });
    const digest = hash('sha256');
    const { compressor } = target;
    if (compressor === undefined) return t.fail('qcow2 has no compressor');
    const unit = compressor.unit;
    await pipeline(
      extents(image),
      load({ unit }),
      digest,
      align(unit),
      sparseDetect({ unit }),
      compress(compressor, { size: image.size }),
      targetWritable(target),
    );
    await image.close();
    qemuImg.expect(['compare', raw, path]);
    qemuImg.expect(['check', '-q', path]);
    const { createHash } = await import('node:crypto');
    t.is(digest.digest(), createHash('sha256').update(disk()).digest('hex'));
    t.true(readFileSync(path).length < 2 * MIB);
  });
});

test('a format of the user is probed, read and converted from like any other', async (t) => {
  const magic = Buffer.from('MYDISK\n\n');
  const raw = driverNamed('raw');
  const mine: Driver = {
    name: 'mine',
    probe: (head) => (head.subarray(0, 8).equals(magic) ? 100 : 0),
    openSource: (request) => raw.openSource({ ...request, options: { ...request.options, offset: 512 } }),
  };
  await withTmpDir(async (directory) => {
    const path = join(directory, 'disk.mine');
    const out = join(directory, 'out.raw');
    writeFileSync(path, Buffer.concat([magic, Buffer.alloc(504), disk()]));
    const options = { inputs: [{ filename: path }], output: { filename: out } };
    await convert({ ...options, drivers: [mine, ...drivers()] });
    t.true(readFileSync(out).equals(disk()));
    registerDriver(mine);
    t.is(driverNamed('mine'), mine);
    await convert(options);
    t.true(readFileSync(out).equals(disk()));
    const error = await t.throwsAsync(convert({ ...options, outputFormat: 'mine' }), { instanceOf: ImageError });
    t.is(error?.message, "Format driver 'mine' does not support image creation");
  });
});

test('an aborted convert rejects with kind aborted and removes what it made', async (t) => {
  await withTmpDir(async (directory) => {
    const [path, out] = [join(directory, 'disk.raw'), join(directory, 'out.qcow2')];
    writeFileSync(path, disk());
    const controller = new AbortController();
    const running = convert({
      inputs: [{ filename: path }],
      output: { filename: out },
      outputFormat: 'qcow2',
      rate: 1000,
      signal: controller.signal,
      onProgress: () => controller.abort(),
    });
    t.is(((await t.throwsAsync(running)) as ImageError).kind, 'aborted');
    t.false(existsSync(out) && readFileSync(out).length > 0);
  });
});

test('progress of convert rises to the size of the disk', async (t) => {
  await withTmpDir(async (directory) => {
    const [path, out] = [join(directory, 'disk.raw'), join(directory, 'out.qcow2')];
    writeFileSync(path, disk());
    const told: number[] = [];
    const onProgress = (done: number, total: number) => {
      t.is(total, 6 * MIB);
      told.push(done);
    };
    await convert({ inputs: [{ filename: path }], output: { filename: out }, outputFormat: 'qcow2', onProgress });
    t.deepEqual(
      told,
      [...told].sort((a, b) => a - b),
    );
    t.is(told[told.length - 1], 6 * MIB);
  });
});
