import { diskCipher } from '../../crypto/disk-cipher.ts';
import type { DiskCipher } from '../../crypto/sector-cipher.ts';
import type { LuksHeader } from '../../layouts/luks.ts';
import type { Storage } from '../../storage/storage.ts';
import { type LuksPlace, unlockLuks } from './luks.ts';
import { parseLuksCipher, sectorSpec } from './luks-cipher.ts';

/** A master key that was found, and what it was found with. */
interface FoundKey {
  header: LuksHeader;
  passphrase: Buffer;
  slot: number;
  masterKey: Buffer;
}

const found = new WeakMap<Storage, FoundKey>();

/**
 * The cipher that `unlockLuks` finds. An image is opened for reading and then, in the same file, for writing: the seconds that a
 * passphrase takes are spent once for each open file.
 */
export async function unlockOnce(
  storage: Storage,
  at: LuksPlace,
  header: LuksHeader,
  passphrase: Buffer,
): Promise<DiskCipher> {
  const known = found.get(storage);
  if (known !== undefined && isSame(known, header, passphrase)) {
    return diskCipher(sectorSpec(parseLuksCipher(header), known.masterKey));
  }
  const { cipher, masterKey, slot } = await unlockLuks(storage, at, header, passphrase);
  found.set(storage, { header, passphrase, slot, masterKey });
  return cipher;
}

/** Whether the passphrase would fit the same key slot again. */
function isSame(known: FoundKey, header: LuksHeader, passphrase: Buffer): boolean {
  const [then, now] = [known.header.slots[known.slot], header.slots[known.slot]];
  return (
    passphrase.equals(known.passphrase) &&
    now.active &&
    now.salt.equals(then.salt) &&
    now.iterations === then.iterations &&
    header.digest.equals(known.header.digest) &&
    header.digestSalt.equals(known.header.digestSalt)
  );
}
