import { createCipheriv, randomBytes } from 'node:crypto';
import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { secretBytes, secretNamed } from '../../lib/crypto/secrets.ts';
import { decodeBase64, secretUnwrapper } from '../../lib/crypto/wrapped-secret.ts';

test('secrets of any length come out of their wrapping', (t) => {
  const key = randomBytes(32);
  const iv = randomBytes(16);
  for (let length = 0; length < 70; length += 1) {
    const plain = randomBytes(length);
    const cipher = createCipheriv('aes-256-cbc', key, iv);
    const wrapped = Buffer.concat([cipher.update(plain), cipher.final()]);
    t.deepEqual(secretUnwrapper(key, iv.toString('base64'))(wrapped), plain);
  }
});

test('the vector of NIST SP 800-38A, F.2.5 comes out, with a padding block behind it', (t) => {
  const key = Buffer.from('603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4', 'hex');
  const iv = Buffer.from('000102030405060708090a0b0c0d0e0f', 'hex').toString('base64');
  const wrapped = Buffer.from('f58c4c04d6e5f1ba779eabfb5f7bfbd6', 'hex');
  // Its last byte, 0x2a, is no padding: that is told.
  t.throws(() => secretUnwrapper(key, iv)(wrapped), { instanceOf: ImageError, message: /padding bytes \(42\)/ });
});

test('whole groups of Base64 are what other decoders make of them', (t) => {
  for (let length = 0; length < 50; length += 1) {
    const bytes = randomBytes(length);
    const text = bytes.toString('base64');
    t.deepEqual(decodeBase64(text), bytes);
    t.deepEqual(decodeBase64(`${text.slice(0, 5)}\n${text.slice(5)}\n`), bytes);
  }
});

test('what is no whole group of Base64 is dropped, and what is no digit is refused', (t) => {
  t.is(decodeBase64('c2VjZ').toString(), 'sec');
  t.is(decodeBase64('c2VjcmV0==').toString(), 'secret');
  t.deepEqual(decodeBase64('===='), Buffer.alloc(1));
  for (const text of ['a b=', 'YWJj\r\n', 'YW-_', '\0']) t.throws(() => decodeBase64(text), { instanceOf: ImageError });
});

test('a passphrase is text; a key is any bytes', (t) => {
  const secrets = new Map<string, string | Uint8Array | null>([
    ['text', 'päss'],
    ['bytes', Uint8Array.of(0xff, 1)],
    ['nul', 'a\0b'],
    ['other', null],
  ]);
  t.deepEqual(secretNamed(secrets, 'text'), Buffer.from('päss'));
  t.throws(() => secretNamed(secrets, 'bytes'), { message: 'Data from secret bytes is not valid UTF-8' });
  t.throws(() => secretNamed(secrets, 'nul'), { message: 'Data from secret nul is not valid UTF-8' });
  t.throws(() => secretNamed(secrets, 'other'), { message: "Object with id 'other' is not a secret" });
  t.throws(() => secretNamed(undefined, 'x'), { message: "No secret with id 'x'" });
  t.deepEqual(secretBytes(secrets, 'bytes'), Buffer.of(0xff, 1));
});
