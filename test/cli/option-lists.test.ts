import test from 'ava';
import { CreateOptionList, parseOptionList, splitList } from '../../lib/cli/option-lists.ts';

test('a list splits at single commas, and doubled ones are commas', (t) => {
  t.deepEqual(splitList('a=1,b=2'), ['a=1', 'b=2']);
  t.deepEqual(splitList('a=1,,2,b'), ['a=1,2', 'b']);
  t.deepEqual(splitList('a,,,b'), ['a,', 'b']);
  t.deepEqual(splitList(''), []);
});

test('elements are keys with or without a value', (t) => {
  t.deepEqual(parseOptionList('a=1=2,b,=3'), [
    { key: 'a', value: '1=2' },
    { key: 'b', value: null },
    { key: '', value: '3' },
  ]);
});

function list(...texts: string[]): CreateOptionList {
  const options = new CreateOptionList();
  for (const text of texts) options.add(text);
  return options;
}

test('several -o make one list, in which later values win', (t) => {
  t.deepEqual({ ...list('a=1,b=2', 'a=3').values() }, { a: '3', b: '2' });
});

test('a key alone switches on, and with no before it off', (t) => {
  t.deepEqual({ ...list('lazy_refcounts,noextended_l2').values() }, { lazy_refcounts: 'on', extended_l2: 'off' });
});

test('keys that every object has are just keys', (t) => {
  t.deepEqual(Object.entries(list('__proto__=1,constructor=2').values()), [
    ['__proto__', '1'],
    ['constructor', '2'],
  ]);
});

for (const text of ['', ',', 'a=1,', ',a=1']) {
  test(`'${text}' is no list of options`, (t) => {
    t.throws(() => list(text), { message: `Invalid option list: ${text}` });
  });
}

test('help may be asked for anywhere in the list', (t) => {
  t.true(list('help').wantsHelp);
  t.true(list('a=1,?').wantsHelp);
  t.true(list('a=1', 'help').wantsHelp);
  t.false(list('a=help').wantsHelp);
});
