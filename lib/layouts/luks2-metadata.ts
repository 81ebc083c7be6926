/**
 * LUKS2's metadata (LUKS2 On-Disk Format Specification 1.1.1, section 3): JSON with key slots, digests, segments and
 * requirements. Of all that it can describe, one segment that dm-crypt decrypts is read here; the rest is refused.
 */
import { ImageError } from '../core/errors.ts';
import { JsonObject } from './json-object.ts';

/** How the key of a slot's area is made of a passphrase. */
export type Luks2Kdf =
  | { type: 'pbkdf2'; salt: Buffer; hash: string; iterations: number }
  | {
      type: 'argon2i' | 'argon2id';
      salt: Buffer;
      /** Passes over the memory. */
      time: number;
      /** KiB. */
      memory: number;
      /** Lanes. */
      cpus: number;
    };

/** A slot that a passphrase opens. */
export interface Luks2KeySlot {
  /** 0 to 31. */
  id: number;
  /** 0: only on demand, 1: normal, 2: to be tried first. */
  priority: number;
  /** Bytes of the key that it holds. */
  keyBytes: number;
  kdf: Luks2Kdf;
  stripes: number;
  /** Of the anti-forensic splitter. */
  splitterHash: string;
  /** Where the key material lies, and the room for it; from the start of the file. */
  area: { offset: number; length: number; encryption: string; keyBytes: number };
}

/** Tells the right key from wrong ones. */
export interface Luks2Digest {
  keySlots: readonly number[];
  hash: string;
  iterations: number;
  salt: Buffer;
  digest: Buffer;
}

export interface Luks2Segment {
  /** From the start of the file. */
  offset: number;
  /** Null: up to the end of the file. */
  length: number | null;
  /** Such as `aes-xts-plain64`. */
  encryption: string;
  sectorSize: number;
  /** Added to the number of each 512-byte sector for its IV. */
  ivTweak: number;
}

export interface Luks2Metadata {
  /** Ascending by id; slots of other kinds are left out. */
  keySlots: Luks2KeySlot[];
  /** Of the segment. */
  digest: Luks2Digest;
  segment: Luks2Segment;
}

const MAX_SLOTS = 32;
const MAX_KEY_BYTES = 512;
const MAX_SALT_BYTES = 64;
const MAX_DIGEST_BYTES = 64;
/** The one number that is in use. */
const STRIPES = 4000;
const UINT32 = 2 ** 32 - 1;
const SECTOR = 512;
const DYNAMIC = 'dynamic';

/** ImageError `corrupt` where the metadata make no sense, `unsupported` for what is not read here. */
export function decodeLuks2Metadata(json: string): Luks2Metadata {
  const root = JsonObject.parse(json, 'The LUKS2 metadata');
  checkRequirements(root);
  const [id, segment] = segmentOf(root.object('segments'));
  return { keySlots: keySlotsOf(root.object('keyslots')), digest: digestOf(root.object('digests'), id), segment };
}

/** What a reader must understand, or leave the container alone: a re-encryption that is under way, say. */
function checkRequirements(root: JsonObject): void {
  const config = root.object('config');
  if (!config.has('requirements')) return;
  const mandatory = config.object('requirements').texts('mandatory');
  if (mandatory.length > 0) throw unsupported(`LUKS2 containers that require '${mandatory[0]}' are not supported`);
}

function segmentOf(segments: JsonObject): [id: string, segment: Luks2Segment] {
  const ids = segments.keys();
  if (ids.length !== 1) throw unsupported(`LUKS2 containers with ${ids.length} segments are not supported`);
  const segment = segments.object(ids[0]);
  const type = segment.text('type');
  if (type !== 'crypt') throw unsupported(`LUKS2 segments of type '${type}' are not supported`);
  if (segment.has('integrity')) throw unsupported('LUKS2 containers with integrity protection are not supported');
  const sectorSize = segment.integer('sector_size', SECTOR, 4096);
  const isDynamic = segment.text('size') === DYNAMIC;
  const decoded: Luks2Segment = {
    offset: segment.decimal('offset'),
    length: isDynamic ? null : segment.decimal('size'),
    encryption: segment.text('encryption'),
    sectorSize,
    ivTweak: segment.decimal('iv_tweak'),
  };
  if (!Number.isInteger(Math.log2(sectorSize))) throw segment.wrong('sector_size', 'a power of two');
  if (decoded.offset % SECTOR !== 0) throw segment.wrong('offset', 'a multiple of 512');
  if ((decoded.length ?? 0) % sectorSize !== 0) throw segment.wrong('size', "a multiple of the sector's");
  return [ids[0], decoded];
}

function digestOf(digests: JsonObject, segment: string): Luks2Digest {
  const id = digests.keys().find((key) => digests.object(key).texts('segments').includes(segment));
  if (id === undefined) throw new ImageError('corrupt', 'No digest in the LUKS2 metadata tells the key of the segment');
  const digest = digests.object(id);
  const type = digest.text('type');
  if (type !== 'pbkdf2') throw unsupported(`LUKS2 digests of type '${type}' are not supported`);
  return {
    keySlots: digest.texts('keyslots').map(Number),
    hash: digest.text('hash'),
    iterations: digest.integer('iterations', 1, UINT32),
    salt: digest.bytes('salt', MAX_SALT_BYTES),
    digest: digest.bytes('digest', MAX_DIGEST_BYTES),
  };
}

function keySlotsOf(slots: JsonObject): Luks2KeySlot[] {
  const found: Luks2KeySlot[] = [];
  for (const key of slots.keys()) {
    const id = /^\d{1,2}$/.test(key) ? Number(key) : MAX_SLOTS;
    if (id >= MAX_SLOTS) throw slots.wrong(key, 'the number of a key slot');
    const slot = slots.object(key);
    // Others hold no key that a passphrase opens.
    if (slot.text('type') === 'luks2') found.push(keySlotOf(id, slot));
  }
  return found.sort((left, right) => left.id - right.id);
}

function keySlotOf(id: number, slot: JsonObject): Luks2KeySlot {
  const splitter = slot.object('af');
  if (splitter.text('type') !== 'luks1') throw unsupported('LUKS2 key slots with another splitter are not supported');
  const area = slot.object('area');
  if (area.text('type') !== 'raw')
    throw unsupported(`LUKS2 key slots of type '${area.text('type')}' are not supported`);
  const decoded: Luks2KeySlot = {
    id,
    priority: slot.has('priority') ? slot.integer('priority', 0, 2) : 1,
    keyBytes: slot.integer('key_size', 1, MAX_KEY_BYTES),
    kdf: kdfOf(slot.object('kdf')),
    stripes: splitter.integer('stripes', STRIPES, STRIPES),
    splitterHash: splitter.text('hash'),
    area: {
      offset: area.decimal('offset'),
      length: area.decimal('size'),
      encryption: area.text('encryption'),
      keyBytes: area.integer('key_size', 1, MAX_KEY_BYTES),
    },
  };
  if (materialBytes(decoded) > decoded.area.length) throw area.wrong('size', 'room enough for the key material');
  return decoded;
}

/** Bytes of a slot's key material: whole sectors. */
export function materialBytes({ keyBytes, stripes }: { keyBytes: number; stripes: number }): number {
  return Math.ceil((keyBytes * stripes) / SECTOR) * SECTOR;
}

function kdfOf(kdf: JsonObject): Luks2Kdf {
  const type = kdf.text('type');
  const salt = kdf.bytes('salt', MAX_SALT_BYTES);
  if (type === 'pbkdf2')
    return { type, salt, hash: kdf.text('hash'), iterations: kdf.integer('iterations', 1, UINT32) };
  if (type !== 'argon2i' && type !== 'argon2id') throw unsupported(`LUKS2 key derivation '${type}' is not supported`);
  return {
    type,
    salt,
    time: kdf.integer('time', 1, UINT32),
    memory: kdf.integer('memory', 1, UINT32),
    cpus: kdf.integer('cpus', 1, UINT32),
  };
}

function unsupported(message: string): ImageError {
  return new ImageError('unsupported', message);
}
