import { alignUp, readU64BE, writeU64BE } from '../../core/binary.ts';
import { ensure } from '../../core/errors.ts';
import {
  ExtensionType,
  MAX_BACKING_FORMAT,
  MAX_BACKING_NAME,
  MAX_BITMAP_DIRECTORY_BYTES,
  MAX_BITMAPS,
} from './constants.ts';
import { encodeHeader, type Qcow2Header } from './header.ts';

/** One header extension as it lies in the file; `data` without the padding to 8 bytes. */
export interface HeaderExtension {
  type: number;
  data: Buffer;
}

/** What follows the header in the first cluster: extensions, then the name of the backing file. */
export interface HeaderTail {
  /** All of them in file order, known or not, without the end marker. */
  extensions: HeaderExtension[];
  backingFile: string | null;
}

/** Type and length precede each extension's data. */
const EXTENSION_HEADER = 8;

/**
 * Decodes extensions and backing file name ("Header extensions").
 * @param head the first cluster, or as much of it as the file has
 */
export function decodeTail(head: Buffer, header: Qcow2Header): HeaderTail {
  const end = header.backingOffset !== 0 ? header.backingOffset : 2 ** header.clusterBits;
  return {
    extensions: decodeExtensions(head, header.headerLength, Math.min(end, head.length)),
    backingFile: decodeBackingName(head, header),
  };
}

function decodeExtensions(head: Buffer, start: number, end: number): HeaderExtension[] {
  const extensions: HeaderExtension[] = [];
  let at = start;
  while (at + EXTENSION_HEADER <= end) {
    const type = head.readUInt32BE(at);
    const length = head.readUInt32BE(at + 4);
    if (type === ExtensionType.end) break;
    at += EXTENSION_HEADER;
    ensure(length <= end - at, 'Header extension too large', { offset: at });
    extensions.push({ type, data: Buffer.from(head.subarray(at, at + length)) });
    at = alignUp(at + length, 8);
  }
  return extensions;
}

function decodeBackingName(head: Buffer, header: Qcow2Header): string | null {
  if (header.backingOffset === 0 || header.backingLength === 0) return null;
  const end = header.backingOffset + header.backingLength;
  ensure(end <= head.length, 'Could not read backing file name', { offset: header.backingOffset });
  return textOf(head.subarray(header.backingOffset, end));
}

/** Names in the file end at a zero byte, if they have one. */
function textOf(bytes: Buffer): string {
  const zero = bytes.indexOf(0);
  return bytes.toString('utf8', 0, zero < 0 ? bytes.length : zero);
}

/** The data of the first extension of that type, or null. */
export function findExtension(extensions: readonly HeaderExtension[], type: number): Buffer | null {
  return extensions.find((each) => each.type === type)?.data ?? null;
}

/** Format of the backing file, from its extension; null where there is none. */
export function decodeBackingFormat(extensions: readonly HeaderExtension[]): string | null {
  const data = findExtension(extensions, ExtensionType.backingFormat);
  if (data === null) return null;
  ensure(
    data.length <= MAX_BACKING_FORMAT,
    `ERROR: ext_backing_format: len=${data.length} too large (>=${MAX_BACKING_FORMAT + 1})`,
  );
  return textOf(data);
}

/** Name of the external data file, from its extension; null where there is none. */
export function decodeDataFileName(extensions: readonly HeaderExtension[]): string | null {
  const data = findExtension(extensions, ExtensionType.dataFile);
  if (data === null) return null;
  ensure(data.length <= MAX_BACKING_NAME, 'The name of the external data file is too long');
  return textOf(data);
}

/** A name of the feature name table ("Feature name table"). */
export interface FeatureName {
  kind: 'incompatible' | 'compatible' | 'autoclear';
  bit: number;
  name: string;
}

const FEATURE_KINDS = ['incompatible', 'compatible', 'autoclear'] as const;
/** Kind, bit, and 46 bytes of name. */
const FEATURE_ENTRY = 48;

/** Entries of unknown kind, and a rest that is no whole entry, are left out: the table is only a help. */
export function decodeFeatureNames(data: Buffer): FeatureName[] {
  const names: FeatureName[] = [];
  for (let at = 0; at + FEATURE_ENTRY <= data.length; at += FEATURE_ENTRY) {
    const kind = FEATURE_KINDS[data[at]];
    if (kind === undefined) continue;
    names.push({ kind, bit: data[at + 1], name: textOf(data.subarray(at + 2, at + FEATURE_ENTRY)) });
  }
  return names;
}

export function encodeFeatureNames(names: readonly FeatureName[]): Buffer {
  const data = Buffer.alloc(names.length * FEATURE_ENTRY);
  names.forEach(({ kind, bit, name }, index) => {
    const at = index * FEATURE_ENTRY;
    data[at] = FEATURE_KINDS.indexOf(kind);
    data[at + 1] = bit;
    data.write(name, at + 2, FEATURE_ENTRY - 2, 'utf8');
  });
  return data;
}

/** The table that every new v3 image carries. */
export const FEATURE_NAMES: readonly FeatureName[] = [
  { kind: 'incompatible', bit: 0, name: 'dirty bit' },
  { kind: 'incompatible', bit: 1, name: 'corrupt bit' },
  { kind: 'incompatible', bit: 2, name: 'external data file' },
  { kind: 'incompatible', bit: 3, name: 'compression type' },
  { kind: 'incompatible', bit: 4, name: 'extended L2 entries' },
  { kind: 'compatible', bit: 0, name: 'lazy refcounts' },
  { kind: 'autoclear', bit: 0, name: 'bitmaps' },
  { kind: 'autoclear', bit: 1, name: 'raw external data' },
];

/** The bitmaps extension ("Bitmaps extension"): where the directory lies. */
export interface BitmapsExtension {
  count: number;
  directoryBytes: number;
  directoryOffset: number;
}

const BITMAPS_EXTENSION = 24;

export function decodeBitmapsExtension(data: Buffer): BitmapsExtension {
  ensure(data.length === BITMAPS_EXTENSION, 'bitmaps_ext: Invalid extension length');
  ensure(data.readUInt32BE(4) === 0, 'bitmaps_ext: Reserved field is not zero');
  const count = data.readUInt32BE(0);
  ensure(count <= MAX_BITMAPS, `bitmaps_ext: image has ${count} bitmaps, exceeding the maximum of ${MAX_BITMAPS}`);
  ensure(count > 0, 'bitmaps_ext: found bitmaps extension with zero bitmaps');
  const directoryBytes = readU64BE(data, 8, 'The bitmap directory size');
  ensure(
    directoryBytes <= MAX_BITMAP_DIRECTORY_BYTES,
    `bitmaps_ext: bitmap directory size (${directoryBytes}) exceeds the maximum supported size ` +
      `(${MAX_BITMAP_DIRECTORY_BYTES})`,
  );
  return { count, directoryBytes, directoryOffset: readU64BE(data, 16, 'The bitmap directory offset') };
}

export function encodeBitmapsExtension(extension: BitmapsExtension): Buffer {
  const data = Buffer.alloc(BITMAPS_EXTENSION);
  data.writeUInt32BE(extension.count, 0);
  writeU64BE(data, 8, extension.directoryBytes);
  writeU64BE(data, 16, extension.directoryOffset);
  return data;
}

/**
 * Header, extensions, end marker and backing file name, one after the other: what an image begins
 * with. `backingOffset` and `backingLength` of the header are set to where the name comes to lie.
 * Null where it does not fit into one cluster.
 */
export function encodeHead(header: Qcow2Header, tail: HeaderTail): Buffer | null {
  const parts: Buffer[] = [];
  for (const { type, data } of tail.extensions) {
    const part = Buffer.alloc(EXTENSION_HEADER + alignUp(data.length, 8));
    part.writeUInt32BE(type, 0);
    part.writeUInt32BE(data.length, 4);
    data.copy(part, EXTENSION_HEADER);
    parts.push(part);
  }
  parts.push(Buffer.alloc(EXTENSION_HEADER));
  const name = Buffer.from(tail.backingFile ?? '', 'utf8');
  const before = parts.reduce((sum, part) => sum + part.length, header.headerLength);
  const total = before + name.length;
  if (total > 2 ** header.clusterBits) return null;
  header.backingOffset = name.length > 0 ? before : 0;
  header.backingLength = name.length;
  return Buffer.concat([encodeHeader(header), ...parts, name], total);
}
