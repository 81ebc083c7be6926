import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { check, convert } from '../../lib/index.ts';
import { parseImageOpts } from '../../lib/sources/filename.ts';
import { mapLines, open, qemuMap, readAll } from '../sources/oracle.ts';
import { pattern, Random } from '../support/model.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { liveTogether } from './shared-life.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');
const KIB = 1024;
const PASSPHRASE = 'correct horse';
const secrets = new Map([
  ['s', PASSPHRASE],
  ['t', 'battery staple'],
]);
const OBJECTS = Array.from(secrets, ([id, data]) => ['--object', `secret,id=${id},data=${data}`]).flat();
const KEY = 'encrypt.key-secret=s';
const LUKS = `encrypt.format=luks,encrypt.iter-time=10`;

/** Every way in which clusters are encrypted, with what changes where they lie. qemu-img spends seconds on each key. */
const LAYOUTS = [
  { format: 'qcow2', options: LUKS, qemuMakes: true },
  { format: 'qcow2', options: 'encrypt.format=aes', qemuMakes: true },
  { format: 'qcow2', options: `${LUKS},cluster_size=512` },
  { format: 'qcow2', options: `${LUKS},extended_l2=on,cluster_size=16k` },
  { format: 'qcow2', options: `${LUKS},compat=v2,cluster_size=4k`, qemuMakes: true },
  { format: 'qcow2', options: 'encryption=on,compat=v2,cluster_size=2M', qemuMakes: true },
  { format: 'qcow2', options: `${LUKS},encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv` },
  { format: 'qcow', options: 'encrypt.format=aes', qemuMakes: true },
];

const optionsOf = (text: string) =>
  Object.fromEntries(`${text},${KEY}`.split(',').map((pair) => pair.split('=') as [string, string]));
const spec = (format: string, path: string) => `driver=${format},file.filename=${path},${KEY}`;

/** The disk as qemu-img reads it. */
function qemuRaw(directory: string, image: string): Buffer {
  const target = join(directory, 'oracle.raw');
  qemuImg.expect(['convert', ...OBJECTS, '--image-opts', '-O', 'raw', image, target]);
  return readFileSync(target);
}

async function ourRaw(image: string): Promise<Buffer> {
  const opened = await open(image, { imageOpts: true, secrets });
  try {
    return await readAll(opened.chain);
  } finally {
    await opened.close();
  }
}

function sparse(size: number, seed: number): Buffer {
  const random = new Random(seed);
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size; at += 300 * KIB) {
    pattern(1 + random.below(200 * KIB), seed + at).copy(bytes, at);
  }
  return bytes;
}

for (const { format, options, qemuMakes = false } of LAYOUTS) {
  test(`${format} with ${options}: an image of qemu-img's and one of ours hold the same, told alike`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    const seed = Date.now() % 1_000_000;
    t.log(`seed ${seed}`);
    await withTmpDir(async (directory) => {
      const [raw, theirs, ours] = ['x.raw', 'theirs', 'ours'].map((name) => join(directory, name));
      const disk = sparse(1500 * KIB, 5);
      writeFileSync(raw, disk);
      await convert({
        inputs: [{ filename: raw, format: 'raw' }],
        output: { filename: ours },
        outputFormat: format,
        createOptions: optionsOf(options),
        secrets,
      });
      t.true(qemuRaw(directory, spec(format, ours)).equals(disk));
      // None of it lies there plain.
      t.false(readFileSync(ours).includes(disk.subarray(0, 64)));
      await sameMap(t, spec(format, ours));
      if (format === 'qcow2') await sameCheck(t, spec(format, ours));
      if (qemuMakes) {
        qemuImg.expect(['convert', ...OBJECTS, '-O', format, '-o', `${options},${KEY}`, raw, theirs]);
        t.true((await ourRaw(spec(format, theirs))).equals(disk));
        await sameMap(t, spec(format, theirs));
      }
      // Both write to it in turns, and read all of it.
      const random = new Random(seed);
      const path = qemuMakes ? theirs : ours;
      const life = { path, format, model: disk, random, longest: 100 * KIB, passphrase: PASSPHRASE };
      await t.notThrowsAsync(liveTogether(life, 2));
    });
  });
}

async function sameMap(t: ExecutionContext, image: string): Promise<void> {
  const opened = await open(image, { imageOpts: true, secrets });
  t.deepEqual(await mapLines(opened.chain), qemuMap([...OBJECTS, '--image-opts', image]));
  await opened.close();
}

async function sameCheck(t: ExecutionContext, image: string): Promise<void> {
  const args = ['check', '--output=json', ...OBJECTS, '--image-opts', image];
  const verdict = JSON.parse(qemuImg.expect(args));
  const found = await check({ image: parseImageOpts(image), secrets });
  t.is(found.imageEndOffset, verdict['image-end-offset']);
  t.is(found.allocatedClusters, verdict['allocated-clusters']);
  t.is(found.leaks + found.corruptions, 0);
}
