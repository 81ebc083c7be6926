import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { check, ImageError } from '../../lib/index.ts';
import { decodeHeader, Incompatible } from '../../lib/layouts/qcow2/index.ts';
import { SECRET_OBJECTS, SECRETS as secrets } from '../conformance/facts.ts';
import { tool } from '../support/tools.ts';
import { wholeDisk } from '../support/whole-disk.ts';
import type { Machine } from './power.ts';

/** Everything that the image reads as, or (with `snapshot`) read as when that was taken. */
export async function readImage(machine: Machine, file: string, format: string, snapshot?: string): Promise<Buffer> {
  return wholeDisk(machine.image(file, format), {
    secrets,
    snapshot: snapshot === undefined ? undefined : { name: snapshot },
  });
}

/** Whether the header says that refcounts are to be made anew. */
export function isDirty(bytes: Buffer): boolean {
  return (decodeHeader(bytes).incompatible & Incompatible.dirty) !== 0n;
}

/** Whether there is a log that has to be replayed before anything is checked. */
async function needsReplay(image: string): Promise<boolean> {
  const error = await check({ image, secrets }).then(
    () => null,
    (reason: unknown) => reason,
  );
  return error instanceof ImageError && error.kind === 'refused';
}

/**
 * Our check finds at worst leaks; in an image with the dirty bit or a log, after a repair, which doesn't change what the disk shows.
 * With a directory, qemu-img has to say the same.
 */
export async function assertSound(
  t: ExecutionContext,
  machine: Machine,
  file: string,
  { format, what, directory }: { format: string; what: string; directory?: string },
): Promise<void> {
  const image = machine.image(file, format);
  const bytes = machine.bytes(file);
  const dirty = format === 'qcow2' ? isDirty(bytes) : await needsReplay(image);
  const findings: string[] = [];
  const asked = { image, secrets, onFinding: (line: string) => findings.push(line) };
  if (dirty) {
    const before = await readImage(machine, file, format);
    await check({ image, secrets, repair: 'all' });
    t.true((await readImage(machine, file, format)).equals(before), `${what}: a repair changes the disk`);
  }
  const { corruptions, checkErrors } = await check(asked);
  t.deepEqual([corruptions, checkErrors], [0, 0], `${what}: ${findings.slice(0, 3).join('; ')}`);
  if (directory === undefined) return;
  const path = join(directory, file);
  writeFileSync(path, bytes);
  const chain = format === 'qcow2' || format === 'qed' ? { backing: null } : {};
  const alone = `json:${JSON.stringify({ driver: format, ...machine.options, file: { driver: 'file', filename: path }, ...chain })}`;
  const { status, text, stderr } = tool('qemu-img').run([
    'check',
    ...SECRET_OBJECTS,
    ...(dirty ? ['-r', 'all'] : []),
    alone,
  ]);
  t.true(status === 0 || status === 3, `${what}: qemu-img ${text}${stderr}`);
}
