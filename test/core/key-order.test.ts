import test from 'ava';
import { keyBucket, orderedEntries } from '../../lib/core/key-order.ts';

const order = (...keys: string[]) =>
  orderedEntries(Object.fromEntries(keys.map((key) => [key, 0]))).map(([key]) => key);

test('keys come as qemu-img prints them', (t) => {
  t.deepEqual(order('required', 'fully-allocated', 'bitmaps'), ['bitmaps', 'required', 'fully-allocated']);
  t.deepEqual(order('filename', 'format', 'dirty-flag', 'virtual-size', 'actual-size', 'cluster-size'), [
    'virtual-size',
    'filename',
    'cluster-size',
    'format',
    'actual-size',
    'dirty-flag',
  ]);
  t.deepEqual(order('name', 'granularity', 'flags'), ['flags', 'name', 'granularity']);
});

test('the order does not depend on how the object was made', (t) => {
  t.deepEqual(order('a', 'b', 'c'), order('c', 'b', 'a'));
});

test('of two keys in one bucket the newer comes first', (t) => {
  const seen = new Map<number, string>();
  for (let index = 0; ; index += 1) {
    const key = `key${index}`;
    const other = seen.get(keyBucket(key));
    if (other !== undefined) {
      t.deepEqual(order(other, key), [key, other]);
      t.deepEqual(order(key, other), [other, key]);
      return;
    }
    seen.set(keyBucket(key), key);
  }
});

test('undefined values have no entry', (t) => {
  t.deepEqual(orderedEntries({ a: undefined, b: 1 }), [['b', 1]]);
});
