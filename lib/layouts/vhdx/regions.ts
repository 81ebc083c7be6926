import { readU64LE, writeU64LE } from '../../core/binary.ts';
import { ensure, ImageError } from '../../core/errors.ts';
import {
  ALIGNMENT,
  HEADER_SECTION,
  MAX_FILE_SIZE,
  MAX_REGIONS,
  REGION_TABLE_LENGTH,
  REGION_TABLES_AT,
  RegionId,
} from './constants.ts';
import { readGuid, writeGuid } from './guid.ts';
import { checksumOf } from './header.ts';

/** A part of the file, in bytes. */
export interface Region {
  offset: number;
  length: number;
}

/** The regions that the specification knows (section 2.2.3). */
export interface VhdxRegions {
  bat: Region;
  metadata: Region;
}

const SIGNATURE = 'regi';
const CHECKSUM_AT = 4;
const COUNT_AT = 8;
const ENTRIES_AT = 16;
const ENTRY_LENGTH = 32;
/** Within an entry. */
const At = { guid: 0, offset: 16, length: 24, required: 28 } as const;
const REQUIRED = 1;

function isValid(table: Buffer): boolean {
  if (table.length < REGION_TABLE_LENGTH || table.toString('latin1', 0, 4) !== SIGNATURE) return false;
  return table.readUInt32LE(CHECKSUM_AT) === checksumOf(table.subarray(0, REGION_TABLE_LENGTH), CHECKSUM_AT);
}

/**
 * The regions of the first valid copy of the table. `corrupt` where there is none, where regions overlap or one of the
 * two is missing; `unsupported` for a required region that is not known.
 */
export function decodeRegions(copies: readonly Buffer[]): VhdxRegions {
  const table = copies.find(isValid);
  ensure(table !== undefined, 'No valid VHDX region table found', { offset: REGION_TABLES_AT[0] });
  const count = table.readUInt32LE(COUNT_AT);
  ensure(count <= MAX_REGIONS, 'The region table has too many entries', { offset: REGION_TABLES_AT[0] + COUNT_AT });
  const known = new Map<string, Region>();
  const all: Region[] = [];
  for (let index = 0; index < count; index += 1) {
    const { guid, region, required } = decodeEntry(table, ENTRIES_AT + index * ENTRY_LENGTH);
    const isKnown = guid === RegionId.bat || guid === RegionId.metadata;
    if (!isKnown && required) throw new ImageError('unsupported', `Unknown required VHDX region ${guid}`);
    ensure(!known.has(guid), `The VHDX region ${guid} is there twice`);
    known.set(guid, region);
    all.push(region);
  }
  refuseOverlaps(all);
  const bat = known.get(RegionId.bat);
  const metadata = known.get(RegionId.metadata);
  ensure(bat !== undefined && metadata !== undefined, 'The region table lacks the BAT or the metadata region', {
    offset: REGION_TABLES_AT[0],
  });
  return { bat, metadata };
}

function decodeEntry(table: Buffer, at: number): { guid: string; region: Region; required: boolean } {
  const region = {
    offset: readU64LE(table, at + At.offset, 'The offset of a region'),
    length: table.readUInt32LE(at + At.length),
  };
  const { offset, length } = region;
  ensure(
    offset % ALIGNMENT === 0 && length % ALIGNMENT === 0 && offset >= HEADER_SECTION && offset <= MAX_FILE_SIZE,
    'A VHDX region is not aligned, or lies in the header section',
    { offset: REGION_TABLES_AT[0] + at },
  );
  return {
    guid: readGuid(table, at + At.guid),
    region,
    required: (table.readUInt32LE(at + At.required) & REQUIRED) !== 0,
  };
}

/** `corrupt` if two of the parts share a byte. */
export function refuseOverlaps(parts: readonly Region[]): void {
  const sorted = parts.filter(({ length }) => length > 0).sort((left, right) => left.offset - right.offset);
  for (let index = 1; index < sorted.length; index += 1) {
    const before = sorted[index - 1];
    ensure(before.offset + before.length <= sorted[index].offset, 'Regions of the VHDX file overlap', {
      offset: sorted[index].offset,
    });
  }
}

/** The table's bytes, with their checksum. */
export function encodeRegions({ bat, metadata }: VhdxRegions): Buffer {
  const table = Buffer.alloc(REGION_TABLE_LENGTH);
  table.write(SIGNATURE, 0, 'latin1');
  const entries = [
    { guid: RegionId.bat, region: bat },
    { guid: RegionId.metadata, region: metadata },
  ];
  table.writeUInt32LE(entries.length, COUNT_AT);
  entries.forEach(({ guid, region }, index) => {
    const at = ENTRIES_AT + index * ENTRY_LENGTH;
    writeGuid(table, at + At.guid, guid);
    writeU64LE(table, at + At.offset, region.offset);
    table.writeUInt32LE(region.length, at + At.length);
    table.writeUInt32LE(REQUIRED, at + At.required);
  });
  table.writeUInt32LE(checksumOf(table, CHECKSUM_AT), CHECKSUM_AT);
  return table;
}
