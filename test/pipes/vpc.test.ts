import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { type Extent, extent } from '../../lib/core/extent.ts';
import type { AnyOptionValues } from '../../lib/core/options.ts';
import { drivers } from '../../lib/formats/index.ts';
import { StreamImpossible } from '../../lib/sinks/stream.ts';
import type { ExtentPlan } from '../../lib/sinks/target.ts';
import { createVpcStream } from '../../lib/sinks/vpc/stream.ts';
import { ForwardImpossible } from '../../lib/sources/forward.ts';
import { openImage } from '../../lib/sources/open.ts';
import type { ForwardSource } from '../../lib/sources/source.ts';
import { openVpcForward } from '../../lib/sources/vpc/forward.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { PipeInput } from '../../lib/storage/pipe-input.ts';
import { chunked, seeded } from '../support/chunked.ts';
import { keptPipe, readForward } from '../support/kept-pipe.ts';
import { pattern } from '../support/model.ts';
import { bundleProgram } from '../support/program.ts';
import { closedRequest } from '../support/requests.ts';
import { shellIn } from '../support/shell.ts';
import { sparseDisk } from '../support/sparse-disk.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { makeVhd, utf16 } from '../support/vpc-images.ts';

const MIB = 1024 * 1024;
const qemuImg = tool('qemu-img');

function pipe(bytes: Buffer, seed: number): PipeInput {
  return new PipeInput('in', chunked(bytes, seeded(seed), 700_000));
}

/** The disk that comes, which must be as long as was said. */
async function readSized(source: ForwardSource): Promise<Buffer> {
  const whole = await readForward(source);
  if (source.size !== whole.length) throw new Error(`${whole.length} bytes came of ${source.size}`);
  return whole;
}

/** A disk of data and holes of up to some blocks, and the map that tells of them. */
function holeyDisk(seed: number): { bytes: Buffer; extents: Extent[] } {
  const random = seeded(seed);
  const bytes = Buffer.alloc(512 * Math.ceil(random() * 24_000));
  const extents: Extent[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = Math.min(bytes.length - at, 512 * Math.ceil(random() * 9000));
    const kind = random() < 0.4 ? 'data' : random() < 0.5 ? 'zero' : 'unallocated';
    if (kind === 'data') pattern(length, at).copy(bytes, at);
    extents.push(extent(at, length, kind));
    at += length;
  }
  return { bytes, extents };
}

interface Streaming {
  options?: AnyOptionValues;
  /** The size, and with it the plan, is not known. */
  blind?: boolean;
}

async function streamed(disk: ReturnType<typeof holeyDisk>, { options = {}, blind = false }: Streaming = {}) {
  const { output, bytes } = keptPipe();
  const plan: ExtentPlan = async function* () {
    for (const each of disk.extents) yield [each];
  };
  const size = blind ? null : disk.bytes.length;
  const target = await createVpcStream({ storage: output, size, options, plan: blind ? null : plan });
  for (const { offset, length, kind } of disk.extents) {
    if (kind !== 'data') {
      if (blind) await target.zero(offset, length);
      continue;
    }
    // In pieces, some of which a search for zeros has told as such.
    for (let at = offset; at < offset + length; at += 300_032) {
      const end = Math.min(offset + length, at + 300_032);
      await target.write(at, disk.bytes.subarray(at, end));
    }
  }
  await target.close();
  return bytes();
}

async function readAtRandom(image: Buffer): Promise<Buffer> {
  const opened = await openImage('memory', {
    drivers: drivers(),
    format: 'vpc',
    storage: memoryStorage('memory', image),
  });
  const found = Buffer.alloc(opened.chain.size);
  await opened.chain.read(0, found).finally(() => opened.close());
  return found;
}

for (const subformat of ['dynamic', 'fixed']) {
  test(`${subformat}: what is streamed reads the same forward and at random, for any map`, async (t) => {
    for (let seed = 1; seed <= 12; seed += 1) {
      const disk = holeyDisk(seed);
      const blind = subformat === 'fixed' && seed % 2 === 0;
      const image = await streamed(disk, { options: { subformat, force_size: true }, blind });
      t.true((await readSized(await openVpcForward(closedRequest(pipe(image, seed))))).equals(disk.bytes), `${seed}`);
      t.true((await readAtRandom(image)).equals(disk.bytes), `at random, seed ${seed}`);
      t.is(image.toString('latin1', image.length - 512, image.length - 504), 'conectix');
    }
  });

  test(`${subformat}: without force_size, the disk grows to what its geometry says`, async (t) => {
    const disk = holeyDisk(3);
    for (const blind of subformat === 'fixed' ? [false, true] : [false]) {
      const image = await streamed(disk, { options: { subformat }, blind });
      const found = await readSized(await openVpcForward(closedRequest(pipe(image, 1))));
      t.true(found.length >= disk.bytes.length);
      t.true(found.subarray(0, disk.bytes.length).equals(disk.bytes));
      t.true(found.subarray(disk.bytes.length).every((byte) => byte === 0));
      t.true((await readAtRandom(image)).equals(found));
    }
  });

  test(`${subformat}: an image that is cut off anywhere is an error, never a shorter disk`, async (t) => {
    const image = await streamed(holeyDisk(5), { options: { subformat, force_size: true } });
    const random = seeded(9);
    // What lacks its last footer alone is whole, as a dynamic disk.
    for (let round = 0; round < 25; round += 1) {
      const cut = image.subarray(0, Math.floor(random() * (image.length - 512)));
      const read = async () => readSized(await openVpcForward(closedRequest(pipe(cut, round))));
      await t.throwsAsync(read(), { instanceOf: ImageError }, `cut off at ${cut.length} of ${image.length}`);
    }
  });
}

test('blocks out of guest order, parents and tables behind the data are left to a file', async (t) => {
  const disk = sparseDisk(5 * MIB, 2);
  const order = (blocks: number[]) => [...blocks].reverse();
  const parent = { uniqueId: Buffer.alloc(16), locators: [['W2ru', utf16('x')]] as const };
  for (const image of [makeVhd({ disk, order }), makeVhd({ disk, parent })]) {
    const input = pipe(image, 1);
    await t.throwsAsync(openVpcForward(closedRequest(input)), { instanceOf: ForwardImpossible });
    // Nothing has been consumed: the whole of it can still be spooled.
    const whole = Buffer.alloc(image.length);
    t.is(await input.readNext(whole), image.length);
    t.true(whole.equals(image));
  }
  const inOrder = await openVpcForward(closedRequest(pipe(makeVhd({ disk }), 1)));
  t.true((await readSized(inOrder)).equals(disk));
});

test('a fixed disk whose creator counts by geometry ends where that says', async (t) => {
  const image = await streamed(holeyDisk(4), { options: { subformat: 'fixed' } });
  const footer = image.subarray(image.length - 512);
  // One cylinder less: what lies behind is in the file, and not part of the disk.
  const cylinder = footer[58] * footer[59] * 512;
  footer.writeUInt16BE(footer.readUInt16BE(56) - 1, 56);
  const change = (footer.readUInt16BE(56) & 0xff) === 0xff ? -254 : 1;
  footer.writeUInt32BE((footer.readUInt32BE(64) + change) >>> 0, 64);
  const found = await readSized(await openVpcForward(closedRequest(pipe(image, 1))));
  t.is(found.length, image.length - 512 - cylinder);
  t.true(found.equals(await readAtRandom(image)));
});

test('a footer of 511 bytes, as old programs wrote it, is one', async (t) => {
  const disk = holeyDisk(6);
  const image = await streamed(disk, { options: { subformat: 'fixed', force_size: true } });
  const short = image.subarray(0, image.length - 1);
  t.true((await readSized(await openVpcForward(closedRequest(pipe(short, 1))))).equals(disk.bytes));
  t.true((await readAtRandom(short)).equals(disk.bytes));
});

test('a dynamic disk of unknown contents is left to a file; what a pipe has not is refused', async (t) => {
  const { output } = keptPipe();
  const request = { storage: output, size: null, options: {}, plan: null };
  await t.throwsAsync(createVpcStream(request), { instanceOf: StreamImpossible });
  const tuned = createVpcStream({ ...request, options: { subformat: 'fixed', nocow: true } });
  await t.throwsAsync(tuned, { message: /no space to preallocate/ });
  const blind: ExtentPlan = async function* () {
    yield [extent(0, 4 * MIB, 'unallocated')];
  };
  const target = await createVpcStream({ ...request, size: 4 * MIB, plan: blind });
  await t.throwsAsync(target.write(0, pattern(512, 1)), { message: /changed while it was read/ });
  await target.abort();
});

test('through real pipes, VHDs go to and come from qemu-img', async (t) => {
  if (qemuImg.missing(t)) return;
  const program = await bundleProgram();
  await withTmpDir((directory) => {
    const sh = shellIn(directory, program);
    const file = (name: string) => join(directory, name);
    writeFileSync(file('disk.raw'), sparseDisk(7 * MIB + 512, 8));
    for (const subformat of ['dynamic', 'fixed']) {
      const options = `-o subformat=${subformat},force_size=on`;
      const out = sh(`$IMGPIPE convert -f raw -O vpc ${options} disk.raw - | cat > ours.vhd`);
      t.deepEqual(out.statuses, [0, 0], out.stderr);
      qemuImg.expect(['compare', '-f', 'vpc', '-F', 'raw', file('ours.vhd'), file('disk.raw')]);
      qemuImg.expect([
        'convert',
        '-f',
        'raw',
        '-O',
        'vpc',
        '-o',
        options.slice(3),
        file('disk.raw'),
        file('theirs.vhd'),
      ]);
      const back = sh('cat theirs.vhd | $IMGPIPE convert -f vpc -O raw - back.raw');
      t.deepEqual(back.statuses, [0, 0], back.stderr);
      t.true(readFileSync(file('back.raw')).equals(readFileSync(file('disk.raw'))));
      const blind = sh(`cat disk.raw | $IMGPIPE convert -f raw -O vpc ${options} - blind.vhd`);
      t.deepEqual(blind.statuses, [0, 0], blind.stderr);
      qemuImg.expect(['compare', '-f', 'vpc', '-F', 'raw', file('blind.vhd'), file('disk.raw')]);
    }
  });
  program.remove();
});
