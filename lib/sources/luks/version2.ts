import type { DiskCipher } from '../../crypto/sector-cipher.ts';
import type { Storage } from '../../storage/storage.ts';
import { type Luks2Header, luks2Info, readLuks2Header } from '../encryption/luks2.ts';
import { unlockLuks2, volumeCipher } from '../encryption/luks2-unlock.ts';
import type { LuksContainer } from './container.ts';

/** A volume key that was found, and what it was found with. */
interface FoundKey {
  passphrase: Buffer;
  digest: Buffer;
  masterKey: Buffer;
}

const found = new WeakMap<Storage, FoundKey>();

/**
 * Opens a LUKS2 container: the disk that `passphrase` unlocks, or only its description where it is null. Only its payload
 * can be written to.
 * @param fileSize Infinity: the file comes through a pipe, and `storage` is its head
 */
export async function openVersion2(
  storage: Storage,
  passphrase: Buffer | null,
  fileSize = storage.size,
): Promise<LuksContainer> {
  const header = await readLuks2Header(storage, fileSize);
  const { payloadOffset, payloadLength, segment } = header;
  const { length, sectorSize } = segment;
  // A file that ends within a sector can't be made longer: whose bytes those are can't be told.
  const isRagged = Number.isFinite(fileSize) && (fileSize - payloadOffset) % sectorSize !== 0;
  return {
    cipher: passphrase === null ? null : await unlockOnce(storage, header, passphrase),
    payloadOffset,
    payloadSize: length !== null || isRagged ? payloadLength : null,
    sectorSize,
    info: luks2Info(header),
  };
}

/** An image is opened for reading and then, in the same file, for writing: the seconds that it takes are spent once. */
async function unlockOnce(storage: Storage, header: Luks2Header, passphrase: Buffer): Promise<DiskCipher> {
  const known = found.get(storage);
  if (known?.passphrase.equals(passphrase) && known.digest.equals(header.digest.digest)) {
    return volumeCipher(header, known.masterKey);
  }
  const { masterKey } = await unlockLuks2(storage, header, passphrase);
  found.set(storage, { passphrase, digest: header.digest.digest, masterKey });
  return volumeCipher(header, masterKey);
}
