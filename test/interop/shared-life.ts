import { writeFileSync } from 'node:fs';
import { openTarget } from '../../lib/formats/open-target.ts';
import type { Target } from '../../lib/sinks/target.ts';
import { parseImageOpts } from '../../lib/sources/filename.ts';
import { loadAll, open, readAll } from '../sources/oracle.ts';
import { pattern, type Random } from '../support/model.ts';
import { tool } from '../support/tools.ts';

/** An image that QEMU and this library write in turns, and what its disk must read as after each. */
export interface SharedLife {
  path: string;
  format: string;
  model: Buffer;
  random: Random;
  /** Longest write in bytes. */
  longest: number;
  /** The image is encrypted with this passphrase, which its option `encrypt.key-secret` names. */
  passphrase?: string;
}

const SECRET = 'life';

/** How the tools are told of the image. */
function opened({ path, format, passphrase }: SharedLife): { tools: string[]; raw: string; image: string } {
  const image = `driver=${format},file.filename=${path}`;
  if (passphrase === undefined) return { tools: ['--image-opts'], raw: rawOf(path), image };
  const tools = ['--object', `secret,id=${SECRET},data=${passphrase}`, '--image-opts'];
  return { tools, raw: rawOf(path), image: `${image},encrypt.key-secret=${SECRET}` };
}

function rawOf(path: string): string {
  return `driver=raw,file.filename=${path}.model`;
}

function secretsOf({ passphrase }: SharedLife): Map<string, string> | undefined {
  return passphrase === undefined ? undefined : new Map([[SECRET, passphrase]]);
}

const SECTOR = 512;

/** `rounds` turns of each; throws where either reads something else than the model. */
export async function liveTogether(life: SharedLife, rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round += 1) {
    writeWithQemu(life);
    await verify(life);
    await writeWithOurs(life);
    await verify(life);
  }
}

function range({ model, random, longest }: SharedLife, unit: number): { offset: number; length: number } {
  const offset = random.below(Math.ceil(model.length / unit)) * unit;
  const length = Math.min(model.length - offset, (1 + random.below(random.pick([8, longest / unit]))) * unit);
  return { offset, length };
}

/** Some writes by qemu-io. */
export function writeWithQemu(life: SharedLife): void {
  const { model, random } = life;
  const commands: string[] = [];
  for (let step = 0; step < 8; step += 1) {
    const { offset, length } = range(life, SECTOR);
    const byte = random.below(4) === 0 ? 0 : 1 + random.below(255);
    model.fill(byte, offset, offset + length);
    const verb = byte !== 0 ? `write -P ${byte}` : random.pick(['write -z', 'write -zu', 'write -P 0']);
    commands.push('-c', `${verb} ${offset} ${length}`);
  }
  const { tools, image } = opened(life);
  tool('qemu-io').expect([...tools, ...commands, image]);
}

/** Some writes by the library; neighbours at once, though they may share a block. */
export async function writeWithOurs(life: SharedLife): Promise<void> {
  const node = parseImageOpts(opened(life).image);
  const target = await openTarget(node, { cache: 'unsafe', secrets: secretsOf(life) });
  for (let step = 0; step < 8; step += 1) await writeOnce(life, target);
  await target.close();
}

async function writeOnce(life: SharedLife, target: Target): Promise<void> {
  const { model, random } = life;
  const { offset, length } = range(life, 1);
  const kind = random.below(6);
  if (kind === 0) {
    model.fill(0, offset, offset + length);
    return target.zero(offset, length, { unmap: random.below(2) === 0 });
  }
  if (kind === 1 && target.writeCompressed !== undefined && target.compressor !== undefined) {
    return writeBlock(life, target);
  }
  const bytes = pattern(length, random.below(200));
  bytes.copy(model, offset);
  const middle = length >> 1;
  await Promise.all([
    target.write(offset, bytes.subarray(0, middle)),
    target.write(offset + middle, bytes.subarray(middle)),
  ]);
}

async function writeBlock({ model, random }: SharedLife, target: Target): Promise<void> {
  const { granularity } = target;
  const offset = random.below(Math.ceil(model.length / granularity)) * granularity;
  const bytes = pattern(Math.min(granularity, model.length - offset), random.below(200));
  bytes.copy(model, offset);
  const packed = await target.compressor?.compress(bytes);
  if (packed) await target.writeCompressed?.(offset, bytes.length, packed);
  else await target.write(offset, bytes);
}

/** Both read what the model says, and where qemu-img can check the format, it finds nothing. */
async function verify(life: SharedLife): Promise<void> {
  const { path, model } = life;
  const { tools, raw, image } = opened(life);
  const qemuImg = tool('qemu-img');
  writeFileSync(`${path}.model`, model);
  qemuImg.expect(['compare', ...tools, raw, image]);
  const { status, stderr } = qemuImg.run(['check', ...tools, image]);
  // 63: the format has no checks.
  if (status !== 0 && status !== 63) throw new Error(`check: ${stderr}`);
  const reader = await open(image, { imageOpts: true, secrets: secretsOf(life) });
  try {
    for (const read of [readAll, loadAll]) {
      const found = await read(reader.chain);
      if (!found.equals(model)) throw new Error(`${read.name} reads something else`);
    }
  } finally {
    await reader.close();
  }
}
