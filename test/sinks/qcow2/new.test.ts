import { join } from 'node:path';
import test from 'ava';
import { parseOptions } from '../../../lib/core/options.ts';
import { createImage } from '../../../lib/formats/create.ts';
import { openTarget } from '../../../lib/formats/open-target.ts';
import { qcow2 } from '../../../lib/formats/qcow2.ts';
import { qcow2CreateOptions } from '../../../lib/sinks/qcow2/options.ts';
import { pattern } from '../../support/model.ts';
import { withTmpDir } from '../../support/tmp.ts';
import { tool } from '../../support/tools.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');
const MiB = 1024 * 1024;
const GiB = 1024 * MiB;

test('a disk larger than the first refcount table counts makes the table grow, and passes the check', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const filename = join(directory, 'x.qcow2');
    const options = { cluster_size: '512', refcount_bits: '64' };
    const target = await createImage({ filename, format: 'qcow2', size: 64 * MiB, options, cache: 'unsafe' });
    const bytes = pattern(MiB, 3);
    for (let offset = 0; offset < 40 * MiB; offset += MiB) await target.write(offset, bytes);
    await target.close();
    const report = qemuImg.expect(['check', filename]);
    t.regex(report, /No errors/);
    t.regex(report, /81920.131072 = 62.50% allocated/);
  });
});

for (const [size, options] of [
  [128 * GiB, { cluster_size: '512' }],
  [65536 * GiB, {}],
  [4096 * 1024 * GiB, { cluster_size: '2M' }],
] as const) {
  test(`a disk of ${size} bytes with ${JSON.stringify(options)} is made and written at both ends`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      const filename = join(directory, 'x.qcow2');
      const target = await createImage({ filename, format: 'qcow2', size, options, cache: 'unsafe' });
      await target.write(123, Buffer.alloc(5000, 1));
      await target.write(size - 5000, Buffer.alloc(5000, 2));
      await target.close();
      t.regex(qemuImg.expect(['check', filename]), /No errors/);
      const reads = ['-c', 'read -P 1 123 5000', '-c', `read -P 2 ${size - 5000} 5000`, '-c', 'read -P 0 1M 1M'];
      t.notRegex(qemuIo.expect(['-r', ...reads, filename]), /failed/);
    });
  });
}

test('an image grows and shrinks, and what lay behind its end does not come back', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const filename = join(directory, 'x.qcow2');
    const target = await createImage({ filename, format: 'qcow2', size: 3 * MiB, options: { cluster_size: '4k' } });
    await target.write(0, Buffer.alloc(3 * MiB, 1));
    await target.close();
    const again = await openTarget(filename);
    await again.truncate?.(MiB + 512);
    await again.truncate?.(100 * MiB);
    await again.write(99 * MiB, Buffer.alloc(4096, 2));
    await again.close();
    t.regex(qemuImg.expect(['check', filename]), /No errors/);
    const reads = ['-c', `read -P 1 0 ${MiB + 512}`, '-c', `read -P 0 ${MiB + 512} 90M`, '-c', 'read -P 2 99M 4k'];
    t.notRegex(qemuIo.expect(['-r', ...reads, filename]), /failed/);
  });
});

for (const options of [
  {},
  { cluster_size: '512' },
  { cluster_size: '2M' },
  { extended_l2: 'on' },
  { refcount_bits: '64' },
  { refcount_bits: '1', cluster_size: '4k' },
  { preallocation: 'full' },
  { preallocation: 'metadata' },
]) {
  test(`measure with ${JSON.stringify(options)} gives the numbers of qemu-img`, async (t) => {
    if (qemuImg.missing(t)) return;
    const given = Object.entries(options).flatMap(([key, value]) => ['-o', `${key}=${value}`]);
    for (const size of [0, 1000, MiB, 10 * GiB + 512]) {
      const theirs = JSON.parse(
        qemuImg.expect(['measure', '--output=json', '-O', 'qcow2', '--size', String(size), ...given]),
      );
      const values = parseOptions(qcow2CreateOptions, options);
      const ours = await qcow2.measure?.({ size, options: values, plan: null, hasBacking: false });
      t.deepEqual(
        [ours?.required, ours?.fullyAllocated],
        [theirs.required, theirs['fully-allocated']],
        `${size} bytes`,
      );
    }
  });
}
