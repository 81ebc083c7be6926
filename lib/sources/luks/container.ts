import { ImageError } from '../../core/errors.ts';
import type { DiskCipher } from '../../crypto/sector-cipher.ts';
import { hasLuksMagic, LUKS_HEADER_BYTES, LUKS_SECTOR } from '../../layouts/luks.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { inContext } from '../context.ts';
import { keySecret } from '../encryption/key-secret.ts';
import { luksInfo, readLuksHeader } from '../encryption/luks.ts';
import { unlockOnce } from '../encryption/unlock-once.ts';
import { refuseUnknownOptions } from '../node-options.ts';
import type { InfoValue, SourceRequest } from '../source.ts';
import { openVersion2 } from './version2.ts';

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

/**
 * Reads the header and, unless only that will be looked at, finds the key. Errors in QEMU's words.
 * @param fileSize Infinity: not known yet, and the storage is the head of what comes through a pipe
 */
export async function openLuksContainer(
  request: SourceRequest,
  fileSize = request.storage.size,
): Promise<LuksContainer> {
  try {
    return await openContainer(request, fileSize);
  } catch (error) {
    throw inContext(error, request.storage.name, 'luks');
  }
}

async function openContainer(request: SourceRequest, fileSize: number): Promise<LuksContainer> {
  const { storage, options, secrets, metadataOnly = false, forCheck = false } = request;
  refuseUnknownOptions('luks', options, ['key-secret']);
  const passphrase = metadataOnly && !forCheck ? null : keySecret(options['key-secret'], secrets);
  if (await isVersion2(storage)) return openVersion2(storage, passphrase, fileSize);
  // There is no room to be kept to: a file that is cut off within its key material has lost some slots only.
  const header = await readLuksHeader(storage, 0, Number.POSITIVE_INFINITY);
  const { payloadOffset } = header;
  const at = { offset: 0, length: payloadOffset };
  const cipher = passphrase === null ? null : await unlockOnce(storage, at, header, passphrase);
  if (payloadOffset > fileSize) {
    const message = 'Could not refresh total sector count: Input/output error';
    throw new ImageError('corrupt', message, { offset: payloadOffset });
  }
  return { cipher, payloadOffset, payloadSize: null, sectorSize: LUKS_SECTOR, info: luksInfo(header) };
}

async function isVersion2(storage: Storage): Promise<boolean> {
  const head = Buffer.alloc(LUKS_HEADER_BYTES);
  await readPadded(storage, 0, head);
  return hasLuksMagic(head, 2);
}
