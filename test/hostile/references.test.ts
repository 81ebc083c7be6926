import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import type { ImageError } from '../../lib/core/errors.ts';
import { drivers } from '../../lib/formats/index.ts';
import { openImage } from '../../lib/sources/open.ts';
import { galleryTools, qcow2Gallery } from '../support/images.ts';
import { withTmpDir } from '../support/tmp.ts';
import { openBytes, withBackingFile, withFields } from './craft.ts';

/** The gallery's image that has a backing file, without the format that its header gives it: each layer is probed. */
function probedImage(directory: string): Buffer {
  const [{ bytes }] = qcow2Gallery(directory, ['backed']);
  // The extension's type becomes one that nobody knows.
  bytes.writeUInt32BE(0x1234_5678, bytes.indexOf(Buffer.from('e2792aca', 'hex')));
  return bytes;
}

/** Descriptors of this process, where the system shows them. */
function openDescriptors(): number {
  return existsSync('/proc/self/fd') ? readdirSync('/proc/self/fd').length : 0;
}

test.serial('backing files that go round in a circle are refused, and nothing stays open', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    const bytes = probedImage(directory);
    const at = (name: string) => join(directory, name);
    writeFileSync(at('self'), withBackingFile(bytes, 'self'));
    writeFileSync(at('a'), withBackingFile(bytes, 'b'));
    writeFileSync(at('b'), withBackingFile(bytes, 'c'));
    writeFileSync(at('c'), withBackingFile(bytes, './a'));
    writeFileSync(at('link'), withBackingFile(bytes, '../link/../self'));
    const before = openDescriptors();
    for (const name of ['self', 'a', 'b', 'link']) {
      await t.throwsAsync(openImage(at(name), { drivers: drivers(), format: 'qcow2' }), { name: 'ImageError' }, name);
    }
    t.is(openDescriptors(), before);
  });
});

test.serial('a chain of a thousand and more images is refused or read, and closed again', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    const bytes = probedImage(directory);
    for (let layer = 0; layer < 1100; layer += 1) {
      writeFileSync(join(directory, `layer-${layer}`), withBackingFile(bytes, `layer-${layer + 1}`));
    }
    const before = openDescriptors();
    await t.throwsAsync(openImage(join(directory, 'layer-0'), { drivers: drivers() }), { name: 'ImageError' });
    t.is(openDescriptors(), before);
  });
});

test.serial('files that are opened in vain leave no descriptor behind', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    const images = qcow2Gallery(directory, ['plain', 'data-file', 'snapshots', 'bitmaps']);
    const before = openDescriptors();
    for (const { bytes } of images) {
      for (const length of [10, 90, 300, 4100]) {
        await openBytes(directory, bytes.subarray(0, length)).then(
          (image) => image.close(),
          () => {},
        );
      }
      await t.throwsAsync(openBytes(directory, withFields(bytes, { incompatible_features: 1n << 40n })));
    }
    t.is(openDescriptors(), before);
  });
});

test('names of backing files that mean nothing are refused', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    const [{ bytes }] = qcow2Gallery(directory, ['backed']);
    const nested = `json:${'{"file":'.repeat(110)}1${'}'.repeat(110)}`;
    const names = ['missing', '.', '/', 'json:', 'json:{', 'json:[]', 'json:{"driver":7}', nested];
    names.push('nosuch:thing', 'a'.repeat(1000), '\0', 'json:{"driver":"qcow2","file":{"driver":"qcow2"}}');
    for (const name of names) {
      const error = await t.throwsAsync<ImageError>(
        openBytes(directory, withBackingFile(bytes, name)),
        undefined,
        name,
      );
      t.is(error?.name, 'ImageError', `${name}: ${error?.stack}`);
    }
  });
});

test('a pipe as backing file is refused instead of being waited for', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    const [{ bytes }] = qcow2Gallery(directory, ['backed']);
    execFileSync('mkfifo', [join(directory, 'pipe')]);
    await t.throwsAsync(openBytes(directory, withBackingFile(bytes, 'pipe')), { name: 'ImageError' });
  });
});

test('a caller who refuses implicit opens gets no backing file and no data file', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    for (const { path } of qcow2Gallery(directory, ['backed', 'data-file'])) {
      const opening = openImage(path, { drivers: drivers(), implicit: 'refuse' });
      const error = await t.throwsAsync<ImageError>(opening, { name: 'ImageError' });
      t.is(error?.kind, 'refused');
    }
  });
});
