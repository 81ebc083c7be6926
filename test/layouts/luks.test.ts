import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { decodeLuksHeader, encodeLuksHeader, type LuksHeader } from '../../lib/layouts/luks.ts';
import { parseLuksCipher } from '../../lib/sources/encryption/luks-cipher.ts';

const SECTOR = 512;

/** As qemu-img makes it for aes-256 in xts mode. */
function header(): LuksHeader {
  return {
    ...{ cipherName: 'aes', cipherMode: 'xts-plain64', hash: 'sha256', payloadOffset: 4040 * SECTOR, keyBytes: 64 },
    ...{ digest: Buffer.alloc(20, 1), digestSalt: Buffer.alloc(32, 2), digestIterations: 2000 },
    uuid: '9440dcaf-3ae9-4959-8c6b-096e110e1838',
    slots: Array.from({ length: 8 }, (_, index) => ({
      active: index === 0,
      iterations: index === 0 ? 10_000 : 0,
      salt: Buffer.alloc(32, index === 0 ? 3 : 0),
      keyOffset: (8 + 504 * index) * SECTOR,
      stripes: 4000,
    })),
  };
}

/** The message for a header with one number changed: offset and 32-bit value. */
function refusal(...edits: readonly (readonly [at: number, value: number])[]): string | null {
  const bytes = encodeLuksHeader(header());
  for (const [at, value] of edits) bytes.writeUInt32BE(value >>> 0, at);
  try {
    parseLuksCipher(decodeLuksHeader(bytes));
    return null;
  } catch (error) {
    return error instanceof ImageError ? error.message : `no ImageError: ${error}`;
  }
}

const slot = (index: number) => 208 + 48 * index;

test('a header is decoded as it was encoded', (t) => {
  const bytes = encodeLuksHeader(header());
  t.is(bytes.length, 592);
  t.deepEqual(decodeLuksHeader(bytes), header());
  t.true(encodeLuksHeader(decodeLuksHeader(bytes)).equals(bytes));
});

test('what contradicts the format is refused in QEMU’s words', (t) => {
  t.is(refusal([0, 0]), 'Volume is not in LUKS format');
  t.is(refusal([104, 7]), 'LUKS payload is overlapping with the header');
  t.is(refusal([104, 8]), 'Keyslot 0 is overlapping with the encrypted payload');
  t.is(refusal([104, 4035]), 'Keyslot 7 is overlapping with the encrypted payload');
  // Here QEMU counts 4 KiB pages that the key material has begun, and refuses what does no harm.
  t.is(refusal([104, 4036]), null);
  t.is(refusal([108, 65]), 'Keyslots 0 and 1 are overlapping in the header');
  t.is(refusal([108, 0xffffffff]), 'Keyslot 0 is overlapping with the encrypted payload');
  t.is(refusal([108, 16]), "Algorithm 'aes' with key size 8 bytes not supported");
  t.is(refusal([164, 0]), 'LUKS key iteration count is zero');
  t.is(refusal([slot(3), 1]), 'Keyslot 3 state (active/disable) is corrupted');
  t.is(refusal([slot(3), 0x00ac71f3]), 'Keyslot 3 iteration count is zero');
  t.is(refusal([slot(0) + 4, 0]), 'Keyslot 0 iteration count is zero');
  t.is(refusal([slot(0) + 40, 7]), 'Keyslot 0 is overlapping with the LUKS header');
  t.is(refusal([slot(0) + 40, 13]), 'Keyslots 0 and 1 are overlapping in the header');
  t.is(refusal([slot(0) + 40, 1016]), 'Keyslots 0 and 2 are overlapping in the header');
  t.is(refusal([slot(3) + 40, 4040]), 'Keyslot 3 is overlapping with the encrypted payload');
  t.is(refusal([slot(3) + 44, 3999]), 'Keyslot 3 is corrupted (stripes 3999 != 4000)');
  t.is(refusal([slot(3) + 44, 0xffffffff]), 'Keyslot 3 is corrupted (stripes -1 != 4000)');
});

test('key material that lies beyond 2^32 sectors’ end is refused, though QEMU’s sum wraps', (t) => {
  t.is(refusal([slot(0) + 40, 0xffffffff]), 'Keyslot 0 is overlapping with the encrypted payload');
});

test('ciphers, modes, IV generators and hashes that nobody has are refused in QEMU’s words', (t) => {
  const said = (words: Partial<LuksHeader>) => {
    const error = t.throws(() => parseLuksCipher({ ...header(), ...words }), { name: 'ImageError' });
    return error?.message;
  };
  t.is(said({ cipherName: 'foo' }), "Algorithm 'foo' with key size 32 bytes not supported");
  t.is(said({ cipherName: 'constructor' }), "Algorithm 'constructor' with key size 32 bytes not supported");
  t.is(said({ cipherMode: 'xts' }), "Unexpected cipher mode string format 'xts'");
  t.is(said({ cipherMode: 'foo-plain' }), "Cipher mode 'foo' not supported");
  t.is(said({ cipherMode: 'xts-' }), "IV generator '' not supported");
  t.is(said({ cipherMode: 'xts-plain64-foo' }), "IV generator 'plain64-foo' not supported");
  t.is(said({ cipherMode: 'xts-plain64:foo' }), "Hash algorithm 'foo' not supported");
  t.is(said({ cipherMode: 'cbc-essiv', keyBytes: 32 }), 'Missing IV generator hash specification');
  t.is(said({ cipherMode: 'cbc-essiv:sha1', keyBytes: 32 }), 'No AES cipher with key size 20 available');
  t.is(said({ cipherMode: 'ecb-plain' }), "Algorithm 'aes' with key size 64 bytes not supported");
  t.is(said({ hash: 'SHA256' }), "Hash algorithm 'SHA256' not supported");
  const essiv = { cipherName: 'cast5', cipherMode: 'cbc-essiv:sha256', keyBytes: 16 };
  t.is(said(essiv), 'Cipher cast5-128 not supported with essiv');
});
