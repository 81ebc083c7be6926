import { readU64BE } from '../../core/binary.ts';
import { ensure } from '../../core/errors.ts';
import { CryptMethod, ExtensionType, findExtension } from '../../layouts/qcow2/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { ClusterCipher } from '../encryption/cluster-cipher.ts';
import { legacyAes } from '../encryption/legacy-aes.ts';
import { type LuksPlace, luksInfo, readLuksHeader } from '../encryption/luks.ts';
import { checkEncryptOptions, type EncryptionFormat, passphraseOf } from '../encryption/node-options.ts';
import { unlockOnce } from '../encryption/unlock-once.ts';
import type { InfoValue, SourceRequest } from '../source.ts';
import type { Qcow2Head } from './head.ts';

/** What of an image tells how it is encrypted. */
type CryptHead = Pick<Qcow2Head, 'header' | 'tail'>;

const FORMATS: Readonly<Record<number, EncryptionFormat>> = { [CryptMethod.aes]: 'aes', [CryptMethod.luks]: 'luks' };

/** How the clusters are encrypted; null: they aren't. */
export function encryptionFormat({ header }: CryptHead): EncryptionFormat | null {
  return FORMATS[header.cryptMethod] ?? null;
}

/**
 * Where the LUKS header and its key material lie ("Full disk encryption header pointer"); null in an image without one. `corrupt`
 * where the pointer is missing, or there for nothing.
 */
export function luksPlace({ header, tail }: CryptHead): LuksPlace | null {
  const pointer = findExtension(tail.extensions, ExtensionType.encryption);
  if (header.cryptMethod !== CryptMethod.luks) {
    ensure(pointer === null, 'CRYPTO header extension only expected with LUKS encryption method');
    return null;
  }
  ensure(pointer !== null, `Missing CRYPTO header for crypt method ${header.cryptMethod}`);
  ensure(pointer.length === 16, `CRYPTO header extension size ${pointer.length}, but expected size 16`);
  const offset = readU64BE(pointer, 0, 'The encryption header offset');
  const length = readU64BE(pointer, 8, 'The encryption header length');
  const clusterSize = 2 ** header.clusterBits;
  ensure(
    offset % clusterSize === 0,
    `Encryption header offset '${offset}' is not a multiple of cluster size '${clusterSize}'`,
  );
  return { offset, length };
}

/** Throws where the header contradicts itself or the node's `encrypt` options. Needs no key. */
export function checkEncryption(head: CryptHead, options: SourceRequest['options']): void {
  checkEncryptOptions(options, encryptionFormat(head));
  luksPlace(head);
}

/** Whether the passphrase is the right one shows here (not in the old `aes`); null for a plain image. */
export async function unlockClusters(
  { storage, options, secrets }: Pick<SourceRequest, 'storage' | 'options' | 'secrets'>,
  head: CryptHead,
): Promise<ClusterCipher | null> {
  checkEncryption(head, options);
  if (head.header.cryptMethod === CryptMethod.none) return null;
  const place = luksPlace(head);
  const header = place === null ? null : await readLuksHeader(storage, place.offset, place.length);
  const passphrase = passphraseOf(options, secrets);
  if (place === null || header === null) return legacyAes(passphrase);
  return new ClusterCipher(await unlockOnce(storage, place, header, passphrase), 'host');
}

/** `encrypt` as QAPI's ImageInfoSpecificQCow2Encryption has it; null for a plain image. */
export async function describeEncryption(
  image: CryptHead & { storage: Storage },
): Promise<{ [key: string]: InfoValue } | null> {
  const format = encryptionFormat(image);
  if (format === null) return null;
  const place = luksPlace(image);
  if (place === null) return { format };
  return { format, ...luksInfo(await readLuksHeader(image.storage, place.offset, place.length)) };
}
