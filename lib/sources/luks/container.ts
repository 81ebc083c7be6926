import { ImageError } from '../../core/errors.ts';
import type { DiskCipher } from '../../crypto/sector-cipher.ts';
import { LUKS_SECTOR } from '../../layouts/luks.ts';
import { keySecret } from '../encryption/key-secret.ts';
import { luksInfo, readLuksHeader } from '../encryption/luks.ts';
import { unlockOnce } from '../encryption/unlock-once.ts';
import { refuseUnknownOptions } from '../node-options.ts';
import type { InfoValue, SourceRequest } from '../source.ts';

/** What there is to know of a container, whatever its version. */
export interface LuksContainer {
  /** Null where it was not unlocked: only its header is looked at. */
  cipher: DiskCipher | null;
  /** Where the encrypted disk begins in the file. */
  payloadOffset: number;
  /** Bytes of the disk; null: all that follows. */
  payloadSize: number | null;
  /** Bytes that are encrypted as one. */
  sectorSize: number;
  /** What `info` shows. */
  info: { [key: string]: InfoValue };
}

/** Reads the header and, unless only that will be looked at, finds the key. Errors in QEMU's words. */
export async function openLuksContainer(request: SourceRequest): Promise<LuksContainer> {
  const { storage, options, secrets, metadataOnly = false } = request;
  refuseUnknownOptions('luks', options, ['key-secret']);
  const passphrase = metadataOnly ? null : keySecret(options['key-secret'], secrets);
  // There is no room to be kept to: a file that is cut off within its key material has lost some slots only.
  const header = await readLuksHeader(storage, 0, Number.POSITIVE_INFINITY);
  const { payloadOffset } = header;
  const at = { offset: 0, length: payloadOffset };
  const cipher = passphrase === null ? null : await unlockOnce(storage, at, header, passphrase);
  if (payloadOffset > storage.size) {
    const message = 'Could not refresh total sector count: Input/output error';
    throw new ImageError('corrupt', message, { file: storage.name, format: 'luks', offset: payloadOffset });
  }
  return { cipher, payloadOffset, payloadSize: null, sectorSize: LUKS_SECTOR, info: luksInfo(header) };
}
