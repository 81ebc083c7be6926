import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { driverNamed, drivers } from '../../lib/formats/index.ts';
import { convert } from '../../lib/pipelines/convert.ts';
import { type NodeSpec, parseFilename } from '../../lib/sources/filename.ts';
import { factsOf, pairsOf, SECRET_OBJECTS, SECRETS } from '../conformance/facts.ts';
import { makeBochs } from '../support/bochs-images.ts';
import { makeCloop } from '../support/cloop-images.ts';
import { makeDmg } from '../support/dmg-images.ts';
import { Random } from '../support/model.ts';
import { sparseDisk } from '../support/sparse-disk.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

const qemuImg = tool('qemu-img');
const SEED = Number(process.env.IMGPIPE_TEST_SEED ?? 7);
/** A multiple of every generator's block; larger than a block of each format. */
const SIZE = 3 * 1024 * 1024;

/** Formats that qemu-img does not make: generators of the tests do. */
const GENERATORS: Readonly<Record<string, (disk: Buffer) => Buffer>> = {
  bochs: (disk) => makeBochs(disk, { seed: SEED }),
  cloop: (disk) => makeCloop(disk, 64 * 1024),
  dmg: (disk) => makeDmg(disk, { chunks: ['zlib', 'raw', 'adc'], chunkSectors: 512 }),
};

/** Ways to make an output, one of which is drawn for each pair. */
const OPTIONS: Readonly<Record<string, readonly Readonly<Record<string, string>>[]>> = {
  qcow2: [{}, { cluster_size: '4096' }, { compat: '0.10' }, { extended_l2: 'on' }],
  qed: [{}, { cluster_size: '4096', table_size: '2' }],
  parallels: [{}, { cluster_size: '65536' }],
  vdi: [{}, { static: 'on' }],
  vhdx: [{}, { block_size: '1048576' }, { subformat: 'fixed' }],
  vmdk: [{}, { subformat: 'monolithicFlat' }, { subformat: 'twoGbMaxExtentSparse' }, { subformat: 'streamOptimized' }],
  vpc: [{}, { force_size: 'on' }, { subformat: 'fixed', force_size: 'on' }],
  luks: [{}, { 'cipher-mode': 'ctr' }, { 'cipher-alg': 'aes-128', 'cipher-mode': 'cbc', 'ivgen-alg': 'essiv' }],
};

function needsOf(format: string) {
  return factsOf(driverNamed(format)).needs;
}

function optionsOf(format: string): string[] {
  const pairs = pairsOf(needsOf(format)?.create ?? {});
  return pairs.length === 0 ? [] : ['-o', pairs.join()];
}

function nodeOf(driver: string, filename: string): NodeSpec {
  return { ...parseFilename(filename), driver, options: { ...needsOf(driver)?.open } };
}

const outputs = drivers().filter(({ create }) => create !== undefined);

for (const { name: from } of drivers()) {
  test(`a ${from} image of somebody else's becomes one of every format that qemu-img reads the same from`, async (t) => {
    if (qemuImg.missing(t)) return;
    const random = new Random(SEED + from.length * 31 + from.charCodeAt(1));
    await withTmpDir(async (directory) => {
      const at = (name: string) => join(directory, name);
      const disk = sparseDisk(SIZE, random.below(1000));
      writeFileSync(at('disk.raw'), disk);
      const generate = GENERATORS[from];
      if (generate !== undefined) writeFileSync(at('source'), generate(disk));
      else
        qemuImg.expect([
          'convert',
          ...SECRET_OBJECTS,
          ...optionsOf(from),
          '-f',
          'raw',
          '-O',
          from,
          at('disk.raw'),
          at('source'),
        ]);
      for (const { name: to } of outputs) {
        const createOptions = { ...needsOf(to)?.create, ...random.pick(OPTIONS[to] ?? [{}]) };
        const output = { filename: at(`out.${to}`) };
        const inputs = [nodeOf(from, at('source'))];
        const parallel = 1 + random.below(16);
        await convert({ inputs, output, outputFormat: to, createOptions, secrets: SECRETS, parallel });
        // A VHD's size is rounded up to a geometry; what is more must read as zeros, which compare checks.
        const made = [`driver=${to}`, `file.filename=${output.filename}`, ...pairsOf(needsOf(to)?.open ?? {})].join();
        const raw = `driver=raw,file.filename=${at('disk.raw')}`;
        const { status, text, stderr } = qemuImg.run(['compare', ...SECRET_OBJECTS, '--image-opts', raw, made]);
        t.is(status, 0, `${from} → ${to} ${JSON.stringify(createOptions)}, seed ${SEED}: ${text}${stderr}`);
      }
    });
  });
}
