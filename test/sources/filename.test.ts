import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { hasProtocol, parseFilename, parseImageOpts } from '../../lib/sources/filename.ts';
import { open, qemuImg } from './oracle.ts';

test('a plain filename is a file of unknown format', (t) => {
  t.deepEqual(parseFilename('dir/a:b.img'), {
    driver: null,
    file: { driver: 'file', filename: 'dir/a:b.img' },
    options: {},
    backing: undefined,
    filename: 'dir/a:b.img',
  });
  t.is(parseFilename('file:a.img').file.filename, 'a.img');
  t.is(parseFilename('nbd:host:1').file.driver, 'nbd');
});

test('a colon before the first slash is a protocol', (t) => {
  t.true(hasProtocol('json:{}'));
  t.true(hasProtocol('a:b/c'));
  t.false(hasProtocol('./a:b'));
  t.false(hasProtocol('plain'));
});

test('nested objects, dotted keys and option strings mean the same node', (t) => {
  const nested = parseFilename('json:{"driver":"qcow2","file":{"driver":"file","filename":"a"},"lazy-refcounts":true}');
  const dotted = parseFilename(
    'json:{"driver":"qcow2","file.driver":"file","file.filename":"a","lazy-refcounts":true}',
  );
  const single = parseFilename("json:{'driver':'qcow2','file':{'filename':'a'},'lazy-refcounts':true}");
  const text = parseImageOpts('driver=qcow2,file.driver=file,file.filename=a,lazy-refcounts=on');
  for (const node of [nested, dotted, single, text]) {
    t.is(node.driver, 'qcow2');
    t.like(node.file, { driver: 'file', filename: 'a' });
  }
  t.deepEqual(nested.options, dotted.options);
  t.deepEqual(text.options, { 'lazy-refcounts': 'on' });
});

test('a doubled comma in an option string is a comma', (t) => {
  t.is(parseImageOpts('driver=raw,file.filename=a,,b,,,,c').file.filename, 'a,b,,c');
});

test('backing may be a node, or null for none', (t) => {
  const node = parseImageOpts('driver=qcow2,file.filename=a,backing.driver=raw,backing.file.filename=b');
  t.like(node.backing, { driver: 'raw', filename: 'b' });
  t.is(parseFilename('json:{"driver":"qcow2","file":{"filename":"a"},"backing":null}').backing, null);
});

test('a protocol alone is a node', (t) => {
  const node = parseImageOpts('driver=file,filename=a,locking=off');
  t.deepEqual({ ...node.file }, { driver: 'file', filename: 'a', locking: 'off' });
  t.deepEqual(node.options, {});
});

test('keys such as __proto__ are keys like others', (t) => {
  const node = parseFilename('json:{"driver":"raw","file":{"filename":"a"},"__proto__.polluted":"yes"}');
  t.is(({} as Record<string, unknown>)['polluted'], undefined);
  t.is(node.driver, 'raw');
});

const WRONG = [
  'foo:bar',
  'nosuch',
  '/tmp',
  'json:{bad',
  'json:[1]',
  'json:',
  'json:{"driver":"qcow2"}',
  'json:{"filename":"a"}',
  'json:{"driver":"nonono","file":{"driver":"file","filename":"a"}}',
  'json:{"driver":"qcow2","file":{"driver":"nonono","filename":"a"}}',
];
const WRONG_OPTIONS = [
  'a',
  'driver=qcow2',
  'filename=a',
  'driver=qcow2,file=a',
  'driver=qcow2,file.filename=a,,b',
  'driver=nonono,file.filename=/dev/null',
  'driver=raw,file.filename=/proc/self/exe,zork=1',
  'driver=raw,file.filename=/proc/self/exe,file.zork=1',
  'driver=qcow2,file.filename=/proc/self/exe,lazy-refcounts=maybe',
];

for (const filename of WRONG) {
  test(`'${filename}' is refused in qemu-img's words`, async (t) => {
    if (qemuImg.missing(t)) return;
    const error = await t.throwsAsync(async () => open(filename), { instanceOf: ImageError });
    t.is(`qemu-img: ${error.message}\n`, qemuImg.run(['info', filename]).stderr);
  });
}

for (const text of WRONG_OPTIONS) {
  test(`the options '${text}' are refused in qemu-img's words`, async (t) => {
    if (qemuImg.missing(t)) return;
    const error = await t.throwsAsync(async () => open(text, { imageOpts: true }), { instanceOf: ImageError });
    const expected = qemuImg.run(['info', '--image-opts', text]).stderr;
    // Who parses the text tells which text it was.
    const prefix = `Could not open '${text}': `;
    const message = error.message.startsWith(prefix) ? error.message : prefix + error.message;
    t.is(`qemu-img: ${message}\n`, expected);
  });
}
