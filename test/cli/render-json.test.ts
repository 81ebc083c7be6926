import test from 'ava';
import fc from 'fast-check';
import { type Json, renderJson } from '../../lib/cli/render/json.ts';

test('keys come in QEMU order, four spaces a level', (t) => {
  const text = renderJson({ format: 'qcow2', 'virtual-size': 10, filename: 'x', 'dirty-flag': false });
  t.is(text, '{\n    "virtual-size": 10,\n    "filename": "x",\n    "format": "qcow2",\n    "dirty-flag": false\n}');
});

test('an empty list takes two lines', (t) => {
  t.is(renderJson({ flags: [] }), '{\n    "flags": [\n    ]\n}');
});

test('undefined members are left out and large integers are exact', (t) => {
  t.is(renderJson({ id: undefined, icount: 2n ** 63n }), '{\n    "icount": 9223372036854775808\n}');
});

test('everything beyond printable ASCII is escaped in upper case', (t) => {
  t.is(renderJson('ä\u007f\u001f"\\u00e4€😀\n'), '"\\u00E4\\u007F\\u001F\\"\\\\u00e4\\u20AC\\uD83D\\uDE00\\n"');
});

test('what is printed reads back as the same value', (t) => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      // -0 and 0 are the same number in JSON.
      t.deepEqual(JSON.parse(renderJson(value as Json)), JSON.parse(JSON.stringify(value)));
    }),
    { numRuns: 200 },
  );
  t.pass();
});
