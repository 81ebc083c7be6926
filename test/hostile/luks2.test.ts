import { createHash } from 'node:crypto';
import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { luks2Info, readLuks2Header } from '../../lib/sources/encryption/luks2.ts';
import { unlockLuks2, volumeCipher } from '../../lib/sources/encryption/luks2-unlock.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { luks2Image, type Metadata, PASSPHRASE, SECONDARY, sealHeader, writeHeader } from '../support/luks2-images.ts';
import { Random } from '../support/model.ts';
import { type Field, fieldMutations, randomMutations, truncations } from '../support/mutate.ts';

const DISK = Buffer.alloc(8192, 'disk');
const IMAGE = luks2Image(DISK);
const JSON_TEXT = IMAGE.toString('latin1', 4096, IMAGE.indexOf(0, 4096));

/** Opens an image as far as it goes: true where the disk was read. Anything but an ImageError fails the test. */
async function open(image: Buffer): Promise<boolean> {
  const storage = memoryStorage('image', image);
  try {
    const header = await readLuks2Header(storage);
    luks2Info(header);
    const { masterKey } = await unlockLuks2(storage, header, Buffer.from(PASSPHRASE));
    const cipher = volumeCipher(header, masterKey);
    const disk = Buffer.alloc(Math.min(header.payloadLength, 2 * DISK.length));
    await storage.read(header.payloadOffset, disk);
    await cipher.decrypt(disk, 0);
    return true;
  } catch (error) {
    if (error instanceof ImageError) return false;
    throw error;
  }
}

/** The image with one of its headers alone, changed by `spoil` and sealed again. */
function spoilt(spoil: (image: Buffer) => Buffer): Buffer {
  const image = Buffer.from(IMAGE);
  image.fill(0, SECONDARY, SECONDARY + 4096);
  const changed = spoil(image);
  if (changed.length > SECONDARY) sealHeader(changed, 0);
  return changed;
}

function withMetadata(json: string): Buffer {
  return spoilt((image) => {
    writeHeader(image, 0, json);
    return image;
  });
}

test('numbers of the binary header at their limits give an ImageError or a disk', async (t) => {
  const fields: Field[] = [
    { name: 'version', offset: 6, width: 2 },
    { name: 'header size', offset: 8, width: 8 },
    { name: 'sequence', offset: 16, width: 8 },
    { name: 'header offset', offset: 256, width: 8 },
    { name: 'checksum name', offset: 72, width: 8 },
  ];
  let opened = 0;
  for (const { apply } of fieldMutations(IMAGE, fields)) if (await open(spoilt(apply))) opened += 1;
  // Some sequence numbers.
  t.true(opened > 0);
});

test('a file that is cut off anywhere gives an ImageError or a disk', async (t) => {
  const lengths = [0, 1, 6, 8, 511, 512, 4095, 4096, 4097, SECONDARY - 1, SECONDARY, SECONDARY + 4096, 2 * SECONDARY];
  lengths.push(100_000, IMAGE.length - DISK.length - 1, IMAGE.length - DISK.length, IMAGE.length - 1);
  let opened = 0;
  for (const { apply } of truncations(lengths)) if (await open(apply(Buffer.from(IMAGE)))) opened += 1;
  t.true(opened > 0);
});

/** Values that no member of the metadata expects, or that are at its limits. */
const VALUES: readonly unknown[] = [
  ...[null, true, '', 'x', [], ['x'], {}, -1, 0, 1, 1.5, 512, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 1e300],
  ...['0', '1', '-1', '511', '512', '4096', '32768', '9007199254740991', '9007199254740992', '1e3', '0x10', 'dynamic'],
  ...['18446744073709551615', 'AAAA', 'A'.repeat(5000), '__proto__', 'aes-xts-plain64', 'aes-cbc-essiv:sha1', '-'],
];

/** Calls `visit` with each member of the metadata, at any depth, and the object that it is in. */
function eachMember(value: Metadata, visit: (holder: Metadata, key: string) => void): void {
  for (const key of Object.keys(value)) {
    visit(value, key);
    if (typeof value[key] === 'object' && value[key] !== null) eachMember(value[key], visit);
  }
}

test('each member of the metadata with values that it is not made for gives an ImageError or a disk', async (t) => {
  const variants: string[] = [];
  const metadata = JSON.parse(JSON_TEXT);
  eachMember(metadata, (holder, key) => {
    const sound = holder[key];
    for (const value of VALUES) {
      holder[key] = value;
      variants.push(JSON.stringify(metadata));
    }
    delete holder[key];
    variants.push(JSON.stringify(metadata));
    holder[key] = sound;
  });
  t.true(variants.length > 1000, `only ${variants.length} variants`);
  let opened = 0;
  for (const json of variants) if (await open(withMetadata(json))) opened += 1;
  t.true(opened > 0 && opened < variants.length / 2, `${opened} of ${variants.length} opened`);
});

test('random bytes in header and metadata give an ImageError or a disk', async (t) => {
  const seed = Date.now() % 2 ** 32;
  t.log(`seed ${seed}`);
  const regions = [
    { name: 'binary', offset: 0, length: 512 },
    { name: 'metadata', offset: 4096, length: JSON_TEXT.length },
  ];
  let refused = 0;
  for (const { name, apply } of randomMutations(new Random(seed), regions, 600)) {
    const opened = await open(spoilt(apply)).catch((error) => t.fail(`${name}: ${error.stack}`));
    if (!opened) refused += 1;
  }
  t.true(refused > 0);
});

test('metadata nested a million deep are refused', async (t) => {
  const huge = Buffer.alloc(8 * 1024 * 1024);
  IMAGE.copy(huge, 0, 0, 4096);
  huge.writeBigUInt64BE(4194304n, 8);
  for (const fill of ['[', '{"a":']) {
    const json = fill.repeat(Math.floor((4194304 - 4096) / fill.length));
    huge.fill(0, 4096, 4194304).write(json, 4096);
    const header = huge.subarray(0, 4194304);
    header.fill(0, 448, 512);
    createHash('sha256').update(header).digest().copy(header, 448);
    t.false(await open(huge));
  }
});
