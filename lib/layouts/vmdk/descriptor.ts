import { ImageError } from '../../core/errors.ts';
import { NO_CID, SECTOR } from './constants.ts';

/** How an extent lies in its file. */
export type ExtentType = 'FLAT' | 'VMFS' | 'SPARSE' | 'VMFSSPARSE' | 'SESPARSE' | 'ZERO';
export type ExtentAccess = 'RW' | 'RDONLY' | 'NOACCESS';

/** One line of the extent description. */
export interface ExtentLine {
  access: ExtentAccess;
  /** Guest sectors. */
  sectors: number;
  type: ExtentType;
  /** As written; null for ZERO. */
  filename: string | null;
  /** Sectors to pass over at the file's beginning. */
  offset: number;
}

/** What a descriptor says, alone in its file or embedded. */
export interface Descriptor {
  createType: string | null;
  /** NO_CID where there is none. */
  cid: number;
  parentCid: number;
  /** `parentFileNameHint`; null: no parent. */
  parent: string | null;
}

/** Names of files, and their number, that nobody needs more of. */
const MAX_FILENAME = 4096;
const MAX_EXTENTS = 65536;
const MAX_SECTORS = Math.floor(Number.MAX_SAFE_INTEGER / SECTOR);

/**
 * Whether a file's head is a descriptor: after comments and blank lines comes `version=` 1, 2 or 3. What comes after the head
 * does not matter.
 */
export function looksLikeDescriptor(head: Buffer): boolean {
  const text = head.toString('latin1');
  let at = 0;
  for (;;) {
    const end = text.indexOf('\n', at);
    if (end < 0) return false;
    const line = text.slice(at, end).replace(/\r$/, '');
    if (/^version=[123]$/.test(line)) return true;
    if (!line.startsWith('#') && !/^ *$/.test(line)) return false;
    at = end + 1;
  }
}

/** Text up to the padding; descriptors are written in the encoding that they name, all of which are ASCII's supersets. */
export function descriptorText(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString('utf8', 0, end < 0 ? bytes.length : end);
}

/** Parses a descriptor's header (Virtual Disk Format 5.0, "The Descriptor File"). */
export function parseDescriptor(text: string): Descriptor {
  const parentCid = hexValue(text, 'parentCID');
  if (parentCid === null) throw new ImageError('corrupt', 'The descriptor has no parentCID');
  return {
    createType: stringValue(text, 'createType'),
    cid: hexValue(text, 'CID') ?? NO_CID,
    parentCid,
    parent: stringValue(text, 'parentFileNameHint') || null,
  };
}

/** `name="value"` at a line's start. */
function stringValue(text: string, name: string): string | null {
  const value = new RegExp(`^[ \\t]*${name}[ \\t]*=[ \\t]*"([^"\\n]*)"`, 'm').exec(text)?.[1] ?? null;
  if (value !== null && value.length > MAX_FILENAME)
    throw new ImageError('corrupt', `The descriptor's ${name} is too long`);
  return value;
}

function hexValue(text: string, name: string): number | null {
  const found = new RegExp(`^[ \\t]*${name}[ \\t]*=[ \\t]*([0-9a-fA-F]{1,8})`, 'm').exec(text);
  return found === null ? null : Number.parseInt(found[1], 16);
}

/** The extents that a descriptor lists. `corrupt`, in QEMU's words, for a line that can't be one. */
export function parseExtents(text: string): ExtentLine[] {
  const extents: ExtentLine[] = [];
  for (const line of text.split('\n')) {
    // What does not look like an extent is none, as QEMU has it.
    const found = /^\s*(RW|RDONLY|NOACCESS)\s+(\d{1,20})\s+([A-Z]+)(.*)$/.exec(line);
    if (found === null) continue;
    const [, access, sectors, type, rest] = found;
    const extent = parseExtent({ access: access as ExtentAccess, sectors: Number(sectors), type, rest }, line);
    if (extent !== null) extents.push(extent);
    if (extents.length > MAX_EXTENTS) throw new ImageError('corrupt', 'The descriptor names too many extents');
  }
  return extents;
}

interface ExtentWords {
  access: ExtentAccess;
  sectors: number;
  type: string;
  /** What follows the type. */
  rest: string;
}

function parseExtent({ access, sectors, type, rest }: ExtentWords, line: string): ExtentLine | null {
  if (sectors === 0) return null;
  if (sectors > MAX_SECTORS) throw new ImageError('corrupt', 'Could not refresh total sector count: File too large');
  if (type === 'ZERO') {
    if (rest.trim() !== '') throw invalidLine(line);
    return { access, sectors, type, filename: null, offset: 0 };
  }
  const found = /^\s+"([^"]+)"\s*(-?\d*)/.exec(rest);
  // Without a file's name in quotes it is taken for something else, as QEMU does.
  if (found === null) return null;
  const [, filename, offset] = found;
  if (!isExtentType(type) || filename.length > MAX_FILENAME) throw invalidLine(line);
  // Only FLAT has an offset, and must have one.
  if (type === 'FLAT' ? !/^\d+$/.test(offset) || Number(offset) > MAX_SECTORS : offset !== '') throw invalidLine(line);
  return { access, sectors, type, filename, offset: Number(offset) };
}

const EXTENT_TYPES: readonly string[] = ['FLAT', 'VMFS', 'SPARSE', 'VMFSSPARSE', 'SESPARSE'];

function isExtentType(type: string): type is ExtentType {
  return EXTENT_TYPES.includes(type);
}

function invalidLine(line: string): ImageError {
  return new ImageError('corrupt', `Invalid extent line: ${line.trim().slice(0, 256)}`);
}

/** What a new descriptor says. */
export interface NewDescriptor {
  cid: number;
  parentCid: number;
  createType: string;
  parent: string | null;
  extents: readonly ExtentLine[];
  /** Guest sectors. */
  capacity: number;
  hwVersion: string;
  adapterType: string;
  toolsVersion: string;
}

const SECTORS_PER_TRACK = 63;

/** The text of a new descriptor, as QEMU writes it. */
export function formatDescriptor(from: NewDescriptor): string {
  const heads = from.adapterType === 'ide' ? 16 : 255;
  const cylinders = Math.floor(from.capacity / (heads * SECTORS_PER_TRACK));
  return [
    '# Disk DescriptorFile',
    'version=1',
    `CID=${formatCid(from.cid)}`,
    `parentCID=${formatCid(from.parentCid)}`,
    `createType="${from.createType}"`,
    ...(from.parent === null ? [] : [`parentFileNameHint="${from.parent}"`]),
    '',
    '# Extent description',
    ...from.extents.map(formatExtent),
    '',
    '# The Disk Data Base',
    '#DDB',
    '',
    `ddb.virtualHWVersion = "${from.hwVersion}"`,
    `ddb.geometry.cylinders = "${cylinders}"`,
    `ddb.geometry.heads = "${heads}"`,
    `ddb.geometry.sectors = "${SECTORS_PER_TRACK}"`,
    `ddb.adapterType = "${from.adapterType}"`,
    `ddb.toolsVersion = "${from.toolsVersion}"`,
    '',
  ].join('\n');
}

function formatExtent({ access, sectors, type, filename, offset }: ExtentLine): string {
  const line = `${access} ${sectors} ${type} "${filename}"`;
  return type === 'FLAT' ? `${line} ${offset}` : line;
}

/** Always eight digits, so that a new one takes an old one's place. */
function formatCid(cid: number): string {
  return cid.toString(16).padStart(8, '0');
}

/** The same text with another CID; null where it has none. */
export function withCid(text: string, cid: number): string | null {
  return withHex(text, 'CID', cid);
}

/** The same text with another parent CID; null where it has none. */
export function withParentCid(text: string, cid: number): string | null {
  return withHex(text, 'parentCID', cid);
}

function withHex(text: string, name: string, value: number): string | null {
  const pattern = new RegExp(`^([ \\t]*${name}[ \\t]*=[ \\t]*)[0-9a-fA-F]{1,8}`, 'm');
  return pattern.test(text) ? text.replace(pattern, (_all, head: string) => head + formatCid(value)) : null;
}
