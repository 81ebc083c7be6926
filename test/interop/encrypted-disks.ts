import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createImage } from '../../lib/formats/create.ts';
import { openTarget } from '../../lib/formats/open-target.ts';
import { parseImageOpts } from '../../lib/sources/filename.ts';
import { open, readAll } from '../sources/oracle.ts';
import { tool } from '../support/tools.ts';

const qemuImg = tool('qemu-img');
export const KIB = 1024;
export const MIB = 1024 * KIB;
export const secrets = new Map([
  ['s', 'correct horse'],
  ['t', 'battery staple'],
]);
export const OBJECTS = Array.from(secrets, ([id, data]) => ['--object', `secret,id=${id},data=${data}`]).flat();
export const LUKS = 'encrypt.format=luks,encrypt.iter-time=10';
export const AES = 'encrypt.format=aes';

/** An image as its option string says it. */
export const key = (path: string, id = 's') => `driver=qcow2,file.filename=${path},encrypt.key-secret=${id}`;

/** Made by us, since qemu-img spends seconds on each key: that we read what it makes is seen elsewhere. */
export async function make(filename: string, options: string, backing?: string): Promise<void> {
  const pairs = Object.fromEntries(options.split(',').map((pair) => pair.split('=') as [string, string]));
  const over = backing === undefined ? undefined : { filename: backing, format: 'qcow2', unsafe: true };
  const target = await createImage({
    filename,
    format: 'qcow2',
    options: { size: '1M', ...pairs },
    backing: over,
    secrets,
  });
  await target.close();
}

export async function write(image: string, offset: number, bytes: Buffer): Promise<void> {
  const target = await openTarget(parseImageOpts(image), { secrets });
  await target.write(offset, bytes);
  await target.close();
}

export async function disk(image: string): Promise<Buffer> {
  const opened = await open(image, { imageOpts: true, secrets });
  try {
    return await readAll(opened.chain);
  } finally {
    await opened.close();
  }
}

/** The disk, which we and qemu-img must read alike, in an image that qemu-img finds sound. */
export async function soundDisk(directory: string, image: string): Promise<Buffer> {
  const target = join(directory, 'oracle.raw');
  qemuImg.expect(['convert', ...OBJECTS, '--image-opts', '-O', 'raw', image, target]);
  qemuImg.expect(['check', ...OBJECTS, '--image-opts', image]);
  const found = await disk(image);
  if (!found.equals(readFileSync(target))) throw new Error('qemu-img reads something else');
  return found;
}

/** A disk with these bytes at these offsets, and zeros elsewhere. */
export function expected(size: number, writes: readonly (readonly [number, Buffer])[]): Buffer {
  const bytes = Buffer.alloc(size);
  for (const [offset, each] of writes) each.copy(bytes, offset);
  return bytes;
}
