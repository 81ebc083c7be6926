import { open } from 'node:fs/promises';
import test from 'ava';
import type { Driver } from '../../lib/formats/driver.ts';
import { drivers } from '../../lib/formats/index.ts';
import { pattern } from '../support/model.ts';
import { factsOf } from './facts.ts';
import { Subject } from './subject.ts';

/** The bytes that opening shows to `probe`. */
export async function headOf(path: string): Promise<Buffer> {
  const file = await open(path);
  try {
    const head = Buffer.alloc(4096);
    const { bytesRead } = await file.read(head, 0, head.length, 0);
    return head.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

/** A complete small image of the format in the subject's directory. */
async function makeImage(subject: Subject): Promise<string> {
  const path = subject.path(`of-${subject.driver.name}`);
  const target = await subject.create({ size: 64 * 1024, filename: path });
  await target.write(0, pattern(1000, 3));
  await target.close();
  return path;
}

export function probeTests(driver: Driver): void {
  test(`${driver.name}: empty, short, random and zero heads are recognised by nobody but raw, and throw nothing`, (t) => {
    const heads = [Buffer.alloc(0), Buffer.alloc(1), Buffer.alloc(3, 0xff), Buffer.alloc(4096), pattern(4096, 1)];
    for (const head of heads) t.is(driver.probe(head, 'x'), driver.name === 'raw' ? 1 : 0);
  });

  test(`${driver.name}: a head cut off anywhere throws nothing, and is recognised at most as surely as the whole`, async (t) => {
    await new Subject(driver, {}).within(async (subject) => {
      if (driver.create === undefined) return t.pass();
      const head = await headOf(await makeImage(subject));
      const whole = driver.probe(head, 'x');
      for (let length = 0; length < 600; length += 1) t.true(driver.probe(head.subarray(0, length), 'x') <= whole);
    });
  });

  test(`${driver.name}: its own images are recognised, and those of other formats are not`, async (t) => {
    await new Subject(driver, {}).within(async (subject) => {
      for (const other of drivers().filter((each) => each.create !== undefined)) {
        if (other !== driver && factsOf(other).alwaysRecognised) continue;
        const head = await headOf(await makeImage(new Subject(other, {}).beside(subject)));
        const scores = drivers().map((each) => ({ name: each.name, score: each.probe(head, 'x') }));
        scores.sort((left, right) => right.score - left.score);
        t.is(scores[0].name, other.name);
        if (other !== driver && !subject.facts.alwaysRecognised) t.is(driver.probe(head, 'x'), 0);
      }
      t.pass();
    });
  });
}
