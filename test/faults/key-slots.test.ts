import test from 'ava';
import { amend, createImage, ImageError } from '../../lib/index.ts';
import { decodeLuksHeader } from '../../lib/layouts/luks.ts';
import { readLuksHeader, unlockLuks } from '../../lib/sources/encryption/luks.ts';
import { parseFilename } from '../../lib/sources/filename.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { eachCrash, type Files, Machine } from './power.ts';

const secrets = new Map([
  ['first', 'one'],
  ['second', 'two'],
  ['third', 'three'],
]);

interface Case {
  /** Slots that are filled beforehand, with `second`. */
  filled?: readonly number[];
  change: Readonly<Record<string, string>>;
  force?: boolean;
  /** Secrets that open the container before, and after. At any moment all do that are in both. */
  before: readonly string[];
  after: readonly string[];
}

/** Slot 6 lies in both sectors of the header. */
const CASES: Readonly<Record<string, Case>> = {
  'a slot is filled': {
    change: { state: 'active', 'new-secret': 'third' },
    before: ['first'],
    after: ['first', 'third'],
  },
  'slot 6 is filled': {
    change: { state: 'active', 'new-secret': 'third', keyslot: '6' },
    before: ['first'],
    after: ['first', 'third'],
  },
  'slot 6 is erased': {
    filled: [6],
    change: { state: 'inactive', keyslot: '6' },
    before: ['first', 'second'],
    after: ['first'],
  },
  'all slots of a passphrase are erased': {
    filled: [3, 6, 7],
    change: { state: 'inactive', 'old-secret': 'second' },
    before: ['first', 'second'],
    after: ['first'],
  },
  'the only slot is overwritten': {
    change: { state: 'active', 'new-secret': 'third', keyslot: '0' },
    force: true,
    before: ['first'],
    after: ['third'],
  },
  'slot 6 is overwritten': {
    filled: [6],
    change: { state: 'active', 'new-secret': 'third', keyslot: '6' },
    force: true,
    before: ['first', 'second'],
    after: ['first', 'third'],
  },
};

interface Subject {
  machine: Machine;
  start: Files;
  run: () => Promise<void>;
}

async function subject({ filled = [], change, force }: Case): Promise<Subject> {
  const machine = new Machine();
  const filename = machine.name('image');
  const options = { 'key-secret': 'first', 'cipher-alg': 'aes-128', 'iter-time': '1' };
  await (await createImage({ filename, format: 'luks', size: 4096, options, secrets })).close();
  const image = { ...parseFilename(filename), driver: 'luks', options: { 'key-secret': 'first' } };
  const cost = { 'iter-time': '1' };
  for (const keyslot of filled) {
    const values = { ...cost, state: 'active', 'new-secret': 'second', keyslot: String(keyslot) };
    await amend({ image, options: values, secrets });
  }
  const values = change.state === 'active' ? { ...cost, ...change } : change;
  const start = new Map([['image', machine.bytes('image')]]);
  return { machine, start, run: () => amend({ image, options: values, force, secrets }) };
}

/** The secrets that open the container; the header is looked at too. */
async function opening(bytes: Buffer): Promise<string[]> {
  const storage = memoryStorage('image', bytes);
  const header = await readLuksHeader(storage, 0, bytes.length);
  const found: string[] = [];
  for (const [id, passphrase] of secrets) {
    const at = { offset: 0, length: header.payloadOffset };
    const opened = await unlockLuks(storage, at, header, Buffer.from(passphrase)).catch((error) => {
      if (error.message !== 'Invalid password, cannot unlock any keyslot') throw error;
      return null;
    });
    if (opened !== null) found.push(id);
  }
  return found;
}

function allowed(found: readonly string[], { before, after }: Case): boolean {
  const lasting = before.filter((each) => after.includes(each));
  const known = found.every((each) => before.includes(each) || after.includes(each));
  return known && found.length > 0 && lasting.every((each) => found.includes(each));
}

for (const [name, each] of Object.entries(CASES)) {
  test(`whenever the power goes while ${name}, the container opens with an old passphrase or a new one`, async (t) => {
    const { machine, start, run } = await subject(each);
    t.deepEqual(await opening(start.get('image') as Buffer), [...each.before]);
    const events = await machine.record(run);
    t.true(events.length > 3);
    t.deepEqual(await opening(machine.bytes('image')), [...each.after]);
    await eachCrash(
      machine,
      { start, events },
      async (what) => {
        const found = await opening(machine.bytes('image'));
        t.true(allowed(found, each), `${what}: ${found}`);
      },
      { moments: 14, losses: ['none', 'torn'] },
    );
  });

  test(`a write or flush that fails while ${name} gives one error, and the container opens`, async (t) => {
    const { machine, start, run } = await subject(each);
    let failures = 0;
    for (const operation of ['write', 'flush'] as const) {
      for (let nth = 1; ; nth += 1) {
        machine.put(start);
        const error = await machine.fail('image', [{ operation, nth, code: 'EIO', lasting: true }], run);
        const found = await opening(machine.bytes('image'));
        t.true(allowed(found, each), `${operation} ${nth}: ${found}`);
        if (error === null) break;
        t.true(error instanceof ImageError && error.code === 'EIO', `${operation} ${nth}: ${(error as Error).stack}`);
        failures += 1;
      }
    }
    t.true(failures > 2);
  });
}

test('what was in an erased slot is not there any more, and the slot says nothing of it', async (t) => {
  const { machine, start, run } = await subject(CASES['slot 6 is erased']);
  const before = start.get('image') as Buffer;
  const slot = decodeLuksHeader(before).slots[6];
  await run();
  const after = machine.bytes('image');
  const materials = [before, after].map((bytes) => bytes.subarray(slot.keyOffset, slot.keyOffset + 4000 * 32));
  let same = 0;
  for (let at = 0; at < materials[0].length; at += 16) {
    if (materials[0].subarray(at, at + 16).equals(materials[1].subarray(at, at + 16))) same += 1;
  }
  t.is(same, 0);
  const erased = decodeLuksHeader(after).slots[6];
  t.deepEqual(erased, { ...slot, active: false, iterations: 0, salt: Buffer.alloc(32) });
});

test('the only slot is erased with force, and nothing opens the container any more', async (t) => {
  const erase = { change: { state: 'inactive', keyslot: '0' }, before: ['first'], after: [] };
  const refused = await subject(erase);
  await t.throwsAsync(refused.run(), { name: 'ImageError', message: /^Attempt to erase the only active keyslot 0 / });
  t.deepEqual(await opening(refused.machine.bytes('image')), ['first']);
  const forced = await subject({ ...erase, force: true });
  await forced.run();
  t.deepEqual(await opening(forced.machine.bytes('image')), []);
});
