import { diskCipher } from '../../crypto/disk-cipher.ts';
import { ClusterCipher } from './cluster-cipher.ts';

const KEY_BYTES = 16;

/**
 * The encryption of old qcow and qcow2 images: AES-128 in CBC mode. The key is the passphrase itself, of which 16 bytes count,
 * and IVs are the numbers of the disk's sectors. Nothing tells a wrong key.
 */
export function legacyAes(passphrase: Buffer): ClusterCipher {
  const key = Buffer.alloc(KEY_BYTES);
  passphrase.copy(key);
  const spec = { cipher: 'aes-128', mode: 'cbc', ivGenerator: 'plain64', ivHash: null, key, sectorSize: 512 } as const;
  return new ClusterCipher(diskCipher(spec), 'guest');
}
