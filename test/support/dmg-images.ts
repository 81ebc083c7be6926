import { spawnSync } from 'node:child_process';
import { crc32, deflateSync } from 'node:zlib';
import { encodeAdc } from './adc-encoder.ts';
import { encodeLzfse, type LzfseKind } from './lzfse-encoder.ts';

const SECTOR = 512;

/** Type of a chunk, as the block tables have it, and how its bytes are made. */
export const DMG_CHUNKS = {
  zero: { type: 0, pack: () => Buffer.alloc(0) },
  raw: { type: 1, pack: (plain: Buffer) => plain },
  ignore: { type: 2, pack: () => Buffer.alloc(0) },
  adc: { type: 0x8000_0004, pack: encodeAdc },
  zlib: { type: 0x8000_0005, pack: (plain: Buffer) => deflateSync(plain) },
  bzip2: { type: 0x8000_0006, pack: (plain: Buffer) => packedBy('bzip2', plain) },
  lzfse: { type: 0x8000_0007, pack: (plain: Buffer) => encodeLzfse(plain) },
  lzvn: { type: 0x8000_0007, pack: (plain: Buffer) => encodeLzfse(plain, ['lzvn']) },
  'lzfse-mixed': { type: 0x8000_0007, pack: (plain: Buffer) => encodeLzfse(plain, EVERY_KIND) },
  lzma: { type: 0x8000_0008, pack: (plain: Buffer) => packedBy('xz', plain) },
} as const;

const EVERY_KIND: readonly LzfseKind[] = ['v2', 'lzvn', 'plain', 'v1'];
const COMMENT = 0x7fff_fffe;
const END = 0xffff_ffff;

export type DmgChunk = keyof typeof DMG_CHUNKS;

export interface DmgRecipe {
  /** How data are stored; with several, one after the other. Default zlib. */
  chunks?: readonly DmgChunk[];
  /** How zeros are; default `zero` and `ignore` in turn. */
  zeros?: readonly DmgChunk[];
  /** Sectors of a chunk; default 512. */
  chunkSectors?: number;
  /** Block tables, of as many partitions; default 1. */
  partitions?: number;
  /** Where the tables stand; default `plist`. */
  tables?: 'plist' | 'resources';
  /** Bytes before the data fork. */
  lead?: number;
  /** The trailer is followed by zeros up to a whole sector, as the tail of a download may be. */
  padded?: boolean;
}

interface Entry {
  type: number;
  sector: number;
  sectors: number;
  offset: number;
  length: number;
}

/** A UDIF image of `disk`, which must be whole sectors. */
export function makeDmg(disk: Buffer, recipe: DmgRecipe = {}): Buffer {
  const { partitions = 1, lead = 0, padded = false } = recipe;
  const sectors = disk.length / SECTOR;
  const each = Math.ceil(sectors / partitions);
  const fork: Buffer[] = [];
  const tables: Buffer[] = [];
  for (let first = 0; first < sectors || first === 0; first += each) {
    const part = disk.subarray(first * SECTOR, (first + each) * SECTOR);
    const at = lengthOf(fork);
    const { entries, stored } = chunksOf(part, recipe);
    // Offsets count from the table's own place in the data fork.
    tables.push(blockTable({ first, sectors: part.length / SECTOR, offset: at, entries, contents: part }));
    fork.push(...stored);
  }
  return assembled(disk, { fork: Buffer.concat(fork), tables, lead, padded, asPlist: recipe.tables !== 'resources' });
}

function lengthOf(buffers: readonly Buffer[]): number {
  return buffers.reduce((sum, { length }) => sum + length, 0);
}

function chunksOf(part: Buffer, recipe: DmgRecipe): { entries: Entry[]; stored: Buffer[] } {
  const { chunks = ['zlib'], zeros = ['zero', 'ignore'], chunkSectors = 512 } = recipe;
  const entries: Entry[] = [];
  const stored: Buffer[] = [];
  let offset = 0;
  const turns = { data: 0, zero: 0 };
  for (let at = 0; at < part.length; at += chunkSectors * SECTOR) {
    const plain = part.subarray(at, at + chunkSectors * SECTOR);
    const kind = plain.some((byte) => byte !== 0) ? 'data' : 'zero';
    const names = kind === 'data' ? chunks : zeros;
    const { type, pack } = DMG_CHUNKS[names[turns[kind] % names.length]];
    turns[kind] += 1;
    const packed = pack(plain);
    entries.push({ type, sector: at / SECTOR, sectors: plain.length / SECTOR, offset, length: packed.length });
    stored.push(packed);
    offset += packed.length;
  }
  // Entries that are no chunks have their place all the same.
  const [first] = entries;
  const comment = { type: COMMENT, sector: first?.sectors ?? 0, sectors: 0, offset: first?.length ?? 0, length: 0 };
  entries.splice(1, 0, comment);
  entries.push({ type: END, sector: part.length / SECTOR, sectors: 0, offset, length: 0 });
  return { entries, stored };
}

interface TableFacts {
  first: number;
  sectors: number;
  offset: number;
  entries: readonly Entry[];
  contents: Buffer;
}

function blockTable({ first, sectors, offset, entries, contents }: TableFacts): Buffer {
  const table = Buffer.alloc(204 + 40 * entries.length);
  table.write('mish');
  table.writeUInt32BE(1, 4);
  table.writeBigUInt64BE(BigInt(first), 8);
  table.writeBigUInt64BE(BigInt(sectors), 16);
  table.writeBigUInt64BE(BigInt(offset), 24);
  // Sectors of buffer that a reader needs.
  table.writeUInt32BE(520, 32);
  writeChecksum(table, 64, crc32(contents));
  table.writeUInt32BE(entries.length, 200);
  for (const [index, entry] of entries.entries()) {
    const at = 204 + 40 * index;
    table.writeUInt32BE(entry.type, at);
    const numbers = [entry.sector, entry.sectors, entry.offset, entry.length];
    for (const [place, value] of numbers.entries()) table.writeBigUInt64BE(BigInt(value), at + 8 + 8 * place);
  }
  return table;
}

/** CRC-32: type 2, 32 bits, and room for more. */
function writeChecksum(bytes: Buffer, at: number, crc: number): void {
  bytes.writeUInt32BE(2, at);
  bytes.writeUInt32BE(32, at + 4);
  bytes.writeUInt32BE(crc, at + 8);
}

interface Parts {
  fork: Buffer;
  tables: readonly Buffer[];
  lead: number;
  padded: boolean;
  asPlist: boolean;
}

function assembled(disk: Buffer, { fork, tables, lead, padded, asPlist }: Parts): Buffer {
  const start = lead + fork.length;
  const meta = asPlist ? plistOf(tables) : resourceForkOf(tables);
  const trailer = Buffer.alloc(512);
  trailer.write('koly');
  trailer.writeUInt32BE(4, 4);
  trailer.writeUInt32BE(512, 8);
  trailer.writeUInt32BE(1, 12);
  const set = (at: number, value: number) => trailer.writeBigUInt64BE(BigInt(value), at);
  set(24, lead);
  set(32, fork.length);
  set(asPlist ? 216 : 40, start);
  set(asPlist ? 224 : 48, meta.length);
  trailer.writeUInt32BE(1, 56);
  trailer.writeUInt32BE(1, 60);
  writeChecksum(trailer, 80, crc32(fork));
  const all = Buffer.concat(tables.map((table) => table.subarray(72, 76)));
  writeChecksum(trailer, 352, crc32(all));
  trailer.writeUInt32BE(1, 488);
  set(492, disk.length / SECTOR);
  const parts = [Buffer.alloc(lead, 0x6c), fork, meta, trailer];
  return Buffer.concat([...parts, Buffer.alloc(padded ? -lengthOf(parts) & (SECTOR - 1) : 0)]);
}

function plistOf(tables: readonly Buffer[]): Buffer {
  const entries = tables.map((table, index) => {
    const base64 = table.toString('base64').replace(/.{52}/g, '$&\n\t\t\t\t');
    return `			<dict>
				<key>Attributes</key>
				<string>0x0050</string>
				<key>CFName</key>
				<string>part &amp; parcel ${index}</string>
				<key>Data</key>
				<data>
				${base64}
				</data>
				<key>ID</key>
				<string>${index}</string>
				<key>Name</key>
				<string>disk image (Apple_HFS : ${index})</string>
			</dict>`;
  });
  return Buffer.from(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple Computer//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>resource-fork</key>
	<dict>
		<key>blkx</key>
		<array>
${entries.join('\n')}
		</array>
		<key>plst</key>
		<array>
			<dict>
				<key>Attributes</key>
				<string>0x0050</string>
				<key>Data</key>
				<data>
				AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==
				</data>
				<key>ID</key>
				<string>0</string>
				<key>Name</key>
				<string></string>
			</dict>
		</array>
	</dict>
</dict>
</plist>
`);
}

/** A resource fork with the tables, and a resource of another kind before them; its map is not made. */
function resourceForkOf(tables: readonly Buffer[]): Buffer {
  const other = Buffer.alloc(50, 0x70);
  const data = [other, ...tables].flatMap((resource) => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(resource.length);
    return [length, resource];
  });
  const header = Buffer.alloc(256);
  header.writeUInt32BE(256, 0);
  header.writeUInt32BE(256 + lengthOf(data), 4);
  header.writeUInt32BE(lengthOf(data), 8);
  return Buffer.concat([header, ...data]);
}

function packedBy(program: string, plain: Buffer): Buffer {
  const { status, stdout, error } = spawnSync(program, ['-c'], { input: plain, maxBuffer: 256 * 1024 * 1024 });
  if (error !== undefined || status !== 0) throw new Error(`${program} failed: ${error?.message ?? status}`);
  return stdout;
}
