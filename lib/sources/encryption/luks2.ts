import { alignDown } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { digest, isHashName } from '../../crypto/hash.ts';
import {
  clearChecksum,
  decodeLuks2Binary,
  LUKS2_BINARY_BYTES,
  LUKS2_HEADER_SIZES,
  luks2Json,
} from '../../layouts/luks2.ts';
import {
  decodeLuks2Metadata,
  type Luks2KeySlot,
  type Luks2Metadata,
  materialBytes,
} from '../../layouts/luks2-metadata.ts';
import type { Storage } from '../../storage/storage.ts';
import type { InfoValue } from '../source.ts';

const traceHeader = tracePoint('luks2_header');

/** A container's metadata, checked against the file. */
export interface Luks2Header extends Luks2Metadata {
  uuid: string;
  /** Where the payload lies in the file. */
  payloadOffset: number;
  /** Whole sectors. Infinity: as far as the file goes that comes through a pipe. */
  payloadLength: number;
}

/**
 * Reads both copies of the header at the start of `storage` and takes the newer one of those that are sound. ImageError
 * `corrupt`, or `unsupported` for containers that hold more than one encrypted disk.
 * @param fileSize Infinity: not known yet, and `storage` is the head of what comes through a pipe
 */
export async function readLuks2Header(storage: Storage, fileSize = storage.size): Promise<Luks2Header> {
  try {
    return checkPlaces(await newestCopy(storage), fileSize);
  } catch (error) {
    throw inFile(error, storage);
  }
}

interface Copy {
  headerBytes: number;
  sequence: number;
  uuid: string;
  json: string;
}

async function newestCopy(storage: Storage): Promise<Copy> {
  const primary = await readCopy(storage, 0);
  // Where the second one lies is in the first one; without it there are some places to look.
  const places = primary instanceof ImageError ? LUKS2_HEADER_SIZES : [primary.headerBytes];
  let newest = primary;
  for (const place of places) {
    const copy = await readCopy(storage, place);
    if (copy instanceof ImageError) continue;
    if (newest instanceof ImageError || copy.sequence > newest.sequence) newest = copy;
  }
  if (newest instanceof ImageError) throw newest;
  if (traceHeader.enabled)
    traceHeader.emit({ file: storage.name, sequence: newest.sequence, sound: newest === primary });
  return newest;
}

/** The copy at `offset`, or what is wrong with it. Errors of reading are thrown. */
async function readCopy(storage: Storage, offset: number): Promise<Copy | ImageError> {
  if (offset + LUKS2_BINARY_BYTES > storage.size) return corrupt('The LUKS2 header is cut off');
  const binary = Buffer.alloc(LUKS2_BINARY_BYTES);
  await storage.read(offset, binary);
  try {
    const header = decodeLuks2Binary(binary, offset);
    if (offset !== 0 && header.headerBytes !== offset) return corrupt('The LUKS2 header says that it lies elsewhere');
    if (offset + header.headerBytes > storage.size) return corrupt('The LUKS2 header is cut off');
    const { checksumName } = header;
    if (!isHashName(checksumName))
      throw new ImageError('unsupported', `Hash algorithm '${checksumName}' not supported`);
    const whole = Buffer.alloc(header.headerBytes);
    await storage.read(offset, whole);
    const sum = digest(checksumName, clearChecksum(whole));
    if (!sum.equals(header.checksum.subarray(0, sum.length))) return corrupt('The LUKS2 header has a wrong checksum');
    return { ...header, json: luks2Json(whole) };
  } catch (error) {
    if (error instanceof ImageError && error.kind !== 'io') return error;
    throw error;
  }
}

/** Everything that the metadata speak of lies in the file, behind both headers. */
function checkPlaces({ json, uuid, headerBytes }: Copy, fileSize: number): Luks2Header {
  const metadata = decodeLuks2Metadata(json);
  const { offset, length, sectorSize } = metadata.segment;
  const headersEnd = 2 * headerBytes;
  if (offset === 0) throw new ImageError('unsupported', 'A LUKS2 header whose disk is elsewhere is not supported');
  if (offset < headersEnd || offset > fileSize) throw corrupt('The LUKS2 payload does not lie in the file');
  const payloadLength = length ?? alignDown(fileSize - offset, sectorSize);
  if (offset + payloadLength > fileSize) throw corrupt('The LUKS2 payload is cut off');
  for (const slot of metadata.keySlots) {
    const end = slot.area.offset + materialBytes(slot);
    if (slot.area.offset < headersEnd || end > offset) {
      throw corrupt(`Key slot ${slot.id} does not lie between the LUKS2 header and the payload`);
    }
  }
  return { ...metadata, uuid, payloadOffset: offset, payloadLength };
}

/** What `info` shows: as of LUKS1, with what is new. Slots between those in use are shown as inactive. */
export function luks2Info(header: Luks2Header): { [key: string]: InfoValue } {
  return {
    version: 2,
    ...encryptionInfo(header),
    'hash-alg': header.digest.hash,
    'sector-size': header.segment.sectorSize,
    'payload-offset': header.payloadOffset,
    'master-key-iters': header.digest.iterations,
    uuid: header.uuid,
    slots: slotsInfo(header.keySlots),
  };
}

/** In the header's words: a container can be described that can't be decrypted, or has no key slot any more. */
function encryptionInfo({ segment, keySlots, digest: { keySlots: ids } }: Luks2Header): { [key: string]: InfoValue } {
  const [cipher, mode = '', ...rest] = segment.encryption.split('-');
  const [generator, hash] = rest.join('-').split(':');
  const bytes = keySlots.find(({ id }) => ids.includes(id))?.keyBytes;
  // XTS takes two keys, so its key is twice as long as the cipher's name says.
  const bits = bytes === undefined ? '' : `-${(bytes * 8) / (mode === 'xts' ? 2 : 1)}`;
  const info: { [key: string]: InfoValue } = {
    'cipher-alg': cipher + bits,
    'cipher-mode': mode,
    'ivgen-alg': generator,
  };
  if (hash !== undefined) info['ivgen-hash-alg'] = hash;
  return info;
}

function slotsInfo(slots: readonly Luks2KeySlot[]): InfoValue[] {
  const shown: InfoValue[] = Array.from({ length: (slots.at(-1)?.id ?? -1) + 1 }, () => ({ active: false }));
  for (const { id, kdf, stripes, area } of slots) {
    const cost: { [key: string]: InfoValue } =
      kdf.type === 'pbkdf2'
        ? { iters: kdf.iterations }
        : { iters: kdf.time, 'memory-kib': kdf.memory, threads: kdf.cpus };
    shown[id] = { active: true, kdf: kdf.type, ...cost, stripes, 'key-offset': area.offset };
  }
  return shown;
}

function corrupt(message: string): ImageError {
  return new ImageError('corrupt', message);
}

/** The error with the file's name. */
export function inFile(error: unknown, { name }: Storage): unknown {
  if (!(error instanceof ImageError) || error.file !== undefined) return error;
  return new ImageError(error.kind, error.message, { file: name, format: 'luks', cause: error });
}
