import test from 'ava';
import { createImage } from '../../lib/formats/create.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { KEY, SECRETS } from '../conformance/facts.ts';
import { pattern, Random } from '../support/model.ts';
import { type Field, fieldMutations, type Mutation, randomMutations, truncations } from '../support/mutate.ts';
import { exercise } from './exercise.ts';

const KIB = 1024;
const CLUSTER = 4096;
const SIZE = 256 * KIB;
const POINTER_TYPE = 0x0537be77;

/** A small encrypted image; few iterations, since a key slot is unlocked for each case. */
async function makeImage(encryption: Readonly<Record<string, string>>): Promise<Buffer> {
  const storage = memoryStorage('image');
  const options = { ...encryption, ...KEY, cluster_size: String(CLUSTER) };
  const target = await createImage({
    filename: 'image',
    format: 'qcow2',
    size: SIZE,
    options,
    storage,
    secrets: SECRETS,
  });
  await target.write(0, pattern(50 * KIB, 1));
  await target.zero(60 * KIB, 30 * KIB);
  await target.write(SIZE - 5000, pattern(5000, 2));
  await target.close();
  return storage.bytes();
}

/** The header's extension "Full disk encryption header pointer", and what it points to. */
function structures(bytes: Buffer): { pointer: number; header: number } {
  let pointer = bytes.readUInt32BE(100);
  while (bytes.readUInt32BE(pointer) !== POINTER_TYPE)
    pointer += 8 + Math.ceil(bytes.readUInt32BE(pointer + 4) / 8) * 8;
  return { pointer, header: Number(bytes.readBigUInt64BE(pointer + 8)) };
}

/** All but the numbers of iterations, which LUKS containers are spoilt with. */
function fieldsOf({ pointer, header }: { pointer: number; header: number }): Field[] {
  return [
    { name: 'crypt_method', offset: 32, width: 4 },
    { name: 'pointer type', offset: pointer, width: 4 },
    { name: 'pointer length', offset: pointer + 4, width: 4 },
    { name: 'LUKS offset', offset: pointer + 8, width: 8 },
    { name: 'LUKS length', offset: pointer + 16, width: 8 },
    { name: 'magic', offset: header, width: 4 },
    { name: 'version', offset: header + 6, width: 2 },
    { name: 'cipher name', offset: header + 8, width: 4 },
    { name: 'cipher mode', offset: header + 40, width: 8 },
    { name: 'key bytes', offset: header + 108, width: 4 },
    { name: 'slot state', offset: header + 208, width: 4 },
    { name: 'key material', offset: header + 208 + 40, width: 4 },
    { name: 'stripes', offset: header + 208 + 44, width: 4 },
  ];
}

async function spoil(bytes: Buffer, cases: readonly Mutation[]): Promise<{ faults: string[]; refused: number }> {
  const faults: string[] = [];
  let refused = 0;
  for (const { name, apply } of cases) {
    const outcome = await exercise('image', 'qcow2', apply(Buffer.from(bytes)));
    faults.push(...outcome.faults.map((fault) => `${name}: ${fault}`));
    if (outcome.refused.length > 0) refused += 1;
  }
  return { faults, refused };
}

test('an encrypted image whose key has been spoilt gives results or clear errors', async (t) => {
  const bytes = await makeImage({
    'encrypt.format': 'luks',
    'encrypt.cipher-alg': 'aes-128',
    'encrypt.iter-time': '1',
  });
  const { pointer, header } = structures(bytes);
  const places = [0n, BigInt(header), BigInt(header + CLUSTER), BigInt(bytes.length), BigInt(CLUSTER)];
  const cuts = [header, header + 1, header + 591, header + 592, header + CLUSTER, header + 70_000];
  const cases = [
    ...fieldMutations(bytes, fieldsOf({ pointer, header }), places),
    ...randomMutations(new Random(7), [{ name: 'pointer', offset: pointer, length: 24 }], 30),
    ...truncations(cuts),
  ];
  const { faults, refused } = await spoil(bytes, cases);
  t.deepEqual(faults, []);
  t.true(cases.length > 150);
  t.true(refused > cases.length / 2, `${refused} of ${cases.length}`);
  t.deepEqual((await spoil(bytes, [{ name: 'as it is', apply: (same) => same }])).faults, []);
});

test('the old AES with spoilt tables gives noise or clear errors', async (t) => {
  const bytes = await makeImage({ 'encrypt.format': 'aes' });
  const l1 = Number(bytes.readBigUInt64BE(40));
  const l2 = Number(bytes.readBigUInt64BE(l1) & 0xff_ffff_ffff_fe00n);
  const fields: Field[] = [
    { name: 'crypt_method', offset: 32, width: 4 },
    { name: 'L1', offset: l1, width: 8 },
    { name: 'L2', offset: l2, width: 8 },
    { name: 'L2, last data', offset: l2 + (SIZE / CLUSTER - 1) * 8, width: 8 },
  ];
  const places = [0n, BigInt(l1), BigInt(l2), BigInt(bytes.length), BigInt(bytes.length - CLUSTER)];
  const cases = [...fieldMutations(bytes, fields, places), ...truncations([bytes.length - 1, bytes.length - CLUSTER])];
  const { faults } = await spoil(bytes, cases);
  t.deepEqual(faults, []);
  t.true(cases.length > 50);
});
