import test from 'ava';
import {
  bitmapBytes,
  coveringGeometry,
  geometryOf,
  geometrySectors,
  isSet,
  MAX_CHS_SECTORS,
  parentPath,
  parentPathOfName,
  runEnd,
  uniformBitmap,
} from '../../lib/layouts/vpc/index.ts';
import { Random } from '../support/model.ts';

test('a geometry covers the disk but for less than a cylinder, and a covering one all of it', (t) => {
  const random = new Random(1);
  for (let round = 0; round < 3000; round += 1) {
    const sectors = Math.floor(2 ** (7 + random.below(2100) / 100)) + random.below(1000);
    if (sectors > MAX_CHS_SECTORS) continue;
    const geometry = geometryOf(sectors);
    const missing = sectors - geometrySectors(geometry);
    // Rounding down by tracks and then by heads.
    t.true(missing >= 0 && missing < (geometry.heads + 1) * geometry.sectorsPerTrack, `${sectors}`);
    const covering = coveringGeometry(sectors);
    t.true(covering === null || geometrySectors(covering) >= sectors);
  }
});

test('the largest geometry tells no size', (t) => {
  t.is(geometrySectors(geometryOf(2 ** 40)), MAX_CHS_SECTORS);
  t.is(coveringGeometry(MAX_CHS_SECTORS), null);
  t.is(coveringGeometry(2 ** 40), null);
  t.is(coveringGeometry(0), null);
});

test('runs of a sector bitmap end where the bits change, the first sector being the highest bit', (t) => {
  t.true(isSet(Buffer.from([0x80]), 0));
  t.true(isSet(Buffer.from([0, 0x01]), 15));
  const random = new Random(2);
  for (let round = 0; round < 200; round += 1) {
    const bitmap = Buffer.from(Array.from({ length: 9 }, () => random.pick([0, 0xff, 0xf0, 0x01, random.below(256)])));
    const bits = [...bitmap].flatMap((byte) => [...byte.toString(2).padStart(8, '0')]);
    for (let at = 0; at < 70; at += 1) {
      const next = bits.findIndex((bit, index) => index > at && bit !== bits[at]);
      t.is(runEnd(bitmap, at, 71), Math.min(71, next < 0 ? 71 : next));
    }
  }
  t.is(uniformBitmap(Buffer.alloc(512, 0xff), 4096), true);
  t.is(uniformBitmap(Buffer.alloc(512), 4096), false);
  // Bits behind the block's last sector say nothing.
  t.is(uniformBitmap(Buffer.from([0xe0, 0]), 3), true);
  t.is(uniformBitmap(Buffer.from([0xa0]), 3), null);
  t.is(bitmapBytes(2 * 1024 * 1024), 512);
  t.is(bitmapBytes(512), 512);
});

test('a parent is a file beside the child, or where an absolute path of this machine says', (t) => {
  const windows = (text: string) => parentPath('W2ru', Buffer.from(text, 'utf16le'));
  t.is(windows('.\\..\\a\\b.vhd'), '../a/b.vhd');
  t.is(windows('/vms/a.vhd'), '/vms/a.vhd');
  t.is(windows('\\\\?\\C:\\vms\\a.vhd'), 'a.vhd');
  t.is(windows('nbd:host:1'), './nbd:host:1');
  t.is(windows('C:a.vhd'), './C:a.vhd');
  for (const nothing of ['', '.\\', 'C:\\', '\0a', 'dir\\']) t.is(windows(nothing), null, nothing);
  // Half a character more.
  t.is(parentPath('W2ku', Buffer.concat([Buffer.from('a.vhd', 'utf16le'), Buffer.alloc(1, 65)])), 'a.vhd');
  t.is(parentPath('MacX', Buffer.from('file:///vms/a%20b.vhd')), '/vms/a b.vhd');
  t.is(parentPath('MacX', Buffer.from('file://%zz')), null);
  t.is(parentPath('MacX', Buffer.from('/vms/a.vhd')), null);
  t.is(parentPath('Mac ', Buffer.from('file:///a')), null);
  t.is(parentPathOfName('E:\\x\\a.vhd'), 'a.vhd');
});
