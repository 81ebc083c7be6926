import { writeU64BE } from '../../core/binary.ts';
import { ensure } from '../../core/errors.ts';
import type { Secrets } from '../../crypto/secrets.ts';
import { CryptMethod, ExtensionType, findExtension, type HeaderExtension } from '../../layouts/qcow2/index.ts';
import { ClusterCipher } from '../../sources/encryption/cluster-cipher.ts';
import { legacyAes } from '../../sources/encryption/legacy-aes.ts';
import { type NewLuks, prepareLuks } from '../encryption/luks.ts';
import { wantedPassphrase } from '../encryption/wanted.ts';
import type { Qcow2Image } from './image.ts';
import type { Qcow2Settings } from './settings.ts';

/** Offset and length of the LUKS header with its key material. */
const POINTER_BYTES = 16;

/** What a new image is encrypted with. */
export interface NewEncryption {
  cipher: ClusterCipher;
  /** What is to be written of it; null in the old `aes`, which writes nothing. */
  luks: NewLuks | null;
}

/** Makes the keys of a new image, which may take seconds. Nothing is written. */
export async function prepareEncryption(
  { encryption }: Qcow2Settings,
  secrets: Secrets | undefined,
): Promise<NewEncryption | null> {
  if (encryption === null) return null;
  const passphrase = wantedPassphrase(encryption, secrets);
  if (encryption.luks === null) return { cipher: legacyAes(passphrase), luks: null };
  const luks = await prepareLuks(encryption.luks, passphrase);
  return { cipher: new ClusterCipher(luks.cipher, 'host'), luks };
}

/** For the header of a new image. */
export function cryptMethod({ encryption }: Qcow2Settings): number {
  return encryption === null ? CryptMethod.none : CryptMethod[encryption.format];
}

/** The extension "Full disk encryption header pointer" of a new image, where it needs one; it points nowhere yet. */
export function pointerExtension({ encryption }: Qcow2Settings): HeaderExtension[] {
  if (encryption?.luks == null) return [];
  return [{ type: ExtensionType.encryption, data: Buffer.alloc(POINTER_BYTES) }];
}

/** Writes the LUKS header and its key material to clusters of their own, and lets the extension point there. */
export async function writeLuks(image: Qcow2Image, { bytes }: NewLuks): Promise<void> {
  const { clusterSize } = image.geometry;
  const clusters = Math.ceil(bytes.length / clusterSize);
  const offset = await image.metadata.run(() => image.refcounts.allocateTogether(clusters));
  await image.storage.write(offset, Buffer.concat([bytes], clusters * clusterSize));
  const pointer = findExtension(image.tail.extensions, ExtensionType.encryption);
  ensure(pointer !== null, 'An encrypted image without a place for its key');
  writeU64BE(pointer, 0, offset);
  writeU64BE(pointer, 8, bytes.length);
}
