import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { createImage } from '../../lib/formats/create.ts';
import { convert } from '../../lib/index.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');

type CreateOptions = Readonly<Record<string, string>>;

/** `-o` and these options, as words of a command line. */
export function optionWords(options: CreateOptions): string[] {
  const pairs = Object.entries(options).map(([key, value]) => `${key}=${value}`);
  return pairs.length === 0 ? [] : ['-o', pairs.join(',')];
}

/**
 * Makes an image of the disk, and has qemu-img make one: both are sound, as long as each other and have the disk; each is looked at.
 */
export async function convertBothWays(
  t: ExecutionContext,
  { format, disk, createOptions }: { format: string; disk: Buffer; createOptions: CreateOptions },
  look: (image: string) => Promise<void> | void,
): Promise<void> {
  await withTmpDir(async (directory) => {
    const [raw, ours, theirs, back] = ['raw', 'ours', 'theirs', 'back'].map((name) => join(directory, name));
    writeFileSync(raw, disk);
    await convert({ inputs: [{ filename: raw }], output: { filename: ours }, outputFormat: format, createOptions });
    qemuImg.expect(['convert', '-O', format, ...optionWords(createOptions), raw, theirs]);
    qemuImg.expect(['check', ours]);
    qemuImg.expect(['compare', raw, ours]);
    t.is(statSync(ours).size, statSync(theirs).size);
    for (const from of [ours, theirs]) {
      await convert({ inputs: [{ filename: from }], output: { filename: back }, outputFormat: 'raw' });
      t.true(readFileSync(back).equals(disk), from);
      await look(from);
    }
  });
}

/** Makes a huge image, and writes to its disk's start and end: qemu-io finds it there. */
export async function writeBothEnds(
  { format, size }: { format: string; size: number },
  look: (image: string) => Promise<void> | void,
): Promise<void> {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'image');
    const target = await createImage({ filename: path, format, size });
    await target.write(size - 1000, Buffer.alloc(1000, 7));
    await target.write(0, Buffer.alloc(1000, 9));
    await target.close();
    qemuIo.expect(['-r', '-f', format, '-c', `read -P 7 ${size - 512} 512`, '-c', 'read -P 9 0 512', path]);
    await look(path);
  });
}
