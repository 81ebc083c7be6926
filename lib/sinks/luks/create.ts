import { ImageError } from '../../core/errors.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import { tracePoint } from '../../core/trace.ts';
import type { Secrets } from '../../crypto/secrets.ts';
import { LUKS_HEADER_AREA, LUKS_SECTOR } from '../../layouts/luks.ts';
import { keySecret } from '../../sources/encryption/key-secret.ts';
import { luksInfo } from '../../sources/encryption/luks.ts';
import { checkFileTuning, tuneNewFile } from '../../storage/index.ts';
import type { Storage } from '../../storage/storage.ts';
import {
  checkLuksSettings,
  luksPayloadOffset,
  type NewLuks,
  parseLuksOptions,
  prepareLuks,
} from '../encryption/luks.ts';
import { type FilePreallocation, preallocate } from '../preallocate.ts';
import { LuksTarget } from './target.ts';

const traceCreate = tracePoint('luks_create');

export interface LuksCreateRequest {
  storage: Storage;
  /** Guest size in bytes. */
  size: number;
  /** Values of `luksCreateOptions`, and of the file protocol. */
  options: AnyOptionValues;
  secrets?: Secrets;
}

/**
 * Makes `storage` a container and returns it open for writing. Its header is written by `close`: until then nobody takes
 * the file for a container. What can't be done is refused before the storage is touched.
 */
export async function createLuks({ storage, size, options, secrets }: LuksCreateRequest): Promise<LuksTarget> {
  const mode = preallocationOf(options.preallocation, storage);
  const settings = parseLuksOptions(options);
  const passphrase = keySecret(options['key-secret'], secrets);
  checkLuksSettings(settings);
  checkFileTuning(storage, options);
  const end = luksPayloadOffset(settings) + size;
  if (storage.fixedSize && end > storage.size) throw refuse('Cannot grow device files', storage);
  const made = await prepareLuks(settings, passphrase);
  if (traceCreate.enabled) traceCreate.emit({ file: storage.name, size, cipher: settings.cipher, preallocation: mode });
  await begin(storage, options);
  await preallocate(storage, 0, end, mode);
  const keys = made.bytes.subarray(LUKS_HEADER_AREA, made.usedBytes);
  await storage.write(LUKS_HEADER_AREA, keys);
  return new LuksTarget(storage, containerOf(made), size, () => writeHeader(storage, made));
}

/** Does away with what was there. */
async function begin(storage: Storage, options: AnyOptionValues): Promise<void> {
  if (storage.fixedSize) return storage.write(0, Buffer.alloc(LUKS_HEADER_AREA));
  if (storage.size > 0) await storage.truncate(0);
  await tuneNewFile(storage, options);
}

function containerOf({ cipher, payloadOffset, header }: NewLuks) {
  return { cipher, payloadOffset, payloadSize: null, sectorSize: LUKS_SECTOR, info: luksInfo(header) };
}

async function writeHeader(storage: Storage, { bytes }: NewLuks): Promise<void> {
  await storage.flush();
  await storage.write(0, bytes.subarray(0, LUKS_HEADER_AREA));
}

/** `metadata` is accepted, and nothing: the format has none to preallocate. */
function preallocationOf(given: unknown, storage: Storage): FilePreallocation {
  const mode = given ?? 'off';
  if (mode === 'off' || mode === 'metadata') return 'off';
  if (mode !== 'falloc' && mode !== 'full') {
    throw new ImageError('invalid', `invalid parameter value: ${String(mode)}`, { file: storage.name, format: 'luks' });
  }
  if (storage.fixedSize) throw refuse(`Unsupported preallocation mode '${mode}'`, storage);
  return mode;
}

function refuse(message: string, storage: Storage): ImageError {
  return new ImageError('unsupported', message, { file: storage.name, format: 'luks', operation: 'create' });
}

/** Bytes of the file of a disk that size: a container has no holes to spare. */
export function measureLuks({ size, options, secrets }: Omit<LuksCreateRequest, 'storage'>) {
  const settings = parseLuksOptions(options);
  keySecret(options['key-secret'], secrets);
  checkLuksSettings(settings);
  const bytes = luksPayloadOffset(settings) + size;
  return { required: bytes, fullyAllocated: bytes };
}
