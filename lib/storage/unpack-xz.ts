import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import type { ChunkReader, ChunkStream } from './chunks.ts';
import { Crc64 } from './unpack-crc64.ts';
import { cutOff, damaged, unsupportedPacking } from './unpack-error.ts';
import { LzmaDecoder } from './unpack-lzma.ts';

/**
 * The .xz container (The .xz File Format, version 1.2.1): streams of blocks with an index behind them. Decoded here
 * because the packages that do it in a stream either leave checksums and concatenated streams out or build natively.
 */
const MAGIC = Buffer.from('fd377a585a00', 'hex');
const FOOTER_MAGIC = 0x595a;
const STREAM_HEADER_BYTES = 12;
const LZMA2_FILTER = 0x21;
/** Memory that a stream may ask for: twice what `xz -9` does. */
const MAX_DICTIONARY = 128 * 1024 * 1024;

/** Bytes of the check behind each block, by its type (2.1.1.2). */
const CHECK_BYTES = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64];

interface Check {
  update(bytes: Buffer): void;
  digest(): Buffer;
}

/** What the index must repeat of each block: kept as sums, since memory must not grow with the blocks. */
interface IndexSums {
  blocks: number;
  unpadded: number;
  uncompressed: number;
}

/**
 * Unpacks xz streams one after the other, with padding between them; all checksums are verified.
 * @param most bytes that come out in all, if that is known: no dictionary is longer then, whatever the stream asks for
 */
export async function* unxz(reader: ChunkReader, most = Number.POSITIVE_INFINITY): ChunkStream {
  while (await reader.ensure(1)) {
    yield* unpackStream(reader, most);
    // Stream padding: four zeros at a time.
    while ((await reader.ensure(4)) && reader.view.readUInt32LE(0) === 0) reader.take(4);
  }
}

async function* unpackStream(reader: ChunkReader, most: number): ChunkStream {
  const header = await take(reader, STREAM_HEADER_BYTES);
  // Bytes that are taken stay for a moment only; these are compared with the footer's.
  const flags = Buffer.from(header.subarray(6, 8));
  if (!header.subarray(0, 6).equals(MAGIC) || crc32(flags) !== header.readUInt32LE(8)) throw damaged('xz', reader);
  if (flags[0] !== 0 || flags[1] > 15) throw unsupportedPacking('The xz stream on the input is of an unknown kind');
  const sums: IndexSums = { blocks: 0, unpadded: 0, uncompressed: 0 };
  for (;;) {
    if (!(await reader.ensure(1))) throw cutOff('xz', reader);
    if (reader.view[0] === 0) break;
    yield* unpackBlock(reader, flags[1], sums, most);
  }
  await readEnd(reader, flags, sums);
}

async function* unpackBlock(reader: ChunkReader, checkType: number, sums: IndexSums, most: number): ChunkStream {
  const start = reader.position;
  const { dictionarySize, compressedSize, uncompressedSize } = await readBlockHeader(reader);
  const check = makeCheck(checkType);
  const packedFrom = reader.position;
  let total = 0;
  const decoder = new LzmaDecoder(Math.min(dictionarySize, most));
  for await (const chunk of decoder.decode(reader)) {
    check?.update(chunk);
    total += chunk.length;
    yield chunk;
  }
  const packed = reader.position - packedFrom;
  if ((compressedSize ?? packed) !== packed || (uncompressedSize ?? total) !== total) throw damaged('xz', reader);
  const padding = await take(reader, -packed & 3);
  if (padding.some((byte) => byte !== 0)) throw damaged('xz', reader);
  const told = await take(reader, CHECK_BYTES[checkType]);
  if (check !== null && !check.digest().equals(told)) throw damaged('xz', reader);
  sums.blocks += 1;
  sums.unpadded += reader.position - start - padding.length;
  sums.uncompressed += total;
}

/** Section 3.1. Only LZMA2 alone: what xz makes of disks; filters for program code are for programs. */
async function readBlockHeader(reader: ChunkReader) {
  const size = (reader.view[0] + 1) * 4;
  const header = await take(reader, size);
  if (crc32(header.subarray(0, -4)) !== header.readUInt32LE(size - 4)) throw damaged('xz', reader);
  const cursor = { bytes: header.subarray(0, -4), at: 2 };
  const flags = header[1];
  const compressedSize = flags & 0x40 ? readVariable(reader, cursor) : null;
  const uncompressedSize = flags & 0x80 ? readVariable(reader, cursor) : null;
  const filter = readVariable(reader, cursor);
  if ((flags & 0x3f) !== 0 || filter !== LZMA2_FILTER) {
    throw unsupportedPacking('The xz stream on the input uses a filter other than LZMA2');
  }
  const [length, bits] = [readVariable(reader, cursor), cursor.bytes[cursor.at]];
  if (length !== 1 || bits === undefined || bits > 40) throw damaged('xz', reader);
  const dictionarySize = bits === 40 ? 0xffff_ffff : (2 | (bits & 1)) * 2 ** ((bits >> 1) + 11);
  if (dictionarySize > MAX_DICTIONARY) {
    throw unsupportedPacking('The xz stream on the input needs a dictionary larger than 128 MiB');
  }
  return { dictionarySize, compressedSize, uncompressedSize };
}

/** Index (4) and stream footer (2.1.2). */
async function readEnd(reader: ChunkReader, flags: Buffer, sums: IndexSums): Promise<void> {
  const start = reader.position;
  const index = new IndexReader(reader);
  await index.byte();
  const blocks = await index.variable();
  const found: IndexSums = { blocks, unpadded: 0, uncompressed: 0 };
  if (blocks !== sums.blocks) throw damaged('xz', reader);
  for (let block = 0; block < blocks; block += 1) {
    found.unpadded += await index.variable();
    found.uncompressed += await index.variable();
  }
  while ((reader.position - start) % 4 !== 0) if ((await index.byte()) !== 0) throw damaged('xz', reader);
  const same = found.unpadded === sums.unpadded && found.uncompressed === sums.uncompressed;
  if (!same || (await take(reader, 4)).readUInt32LE(0) !== index.crc) throw damaged('xz', reader);
  const indexBytes = reader.position - start;
  const footer = await take(reader, STREAM_HEADER_BYTES);
  const sound =
    crc32(footer.subarray(4, 10)) === footer.readUInt32LE(0) &&
    (footer.readUInt32LE(4) + 1) * 4 === indexBytes &&
    footer.subarray(8, 10).equals(flags) &&
    footer.readUInt16BE(10) === FOOTER_MAGIC;
  if (!sound) throw damaged('xz', reader);
}

class IndexReader {
  readonly #reader: ChunkReader;
  crc = 0;

  constructor(reader: ChunkReader) {
    this.#reader = reader;
  }

  async byte(): Promise<number> {
    const bytes = await take(this.#reader, 1);
    this.crc = crc32(bytes, this.crc);
    return bytes[0];
  }

  async variable(): Promise<number> {
    let value = 0;
    for (let place = 0; place < 9; place += 1) {
      const byte = await this.byte();
      value += (byte & 0x7f) * 2 ** (7 * place);
      if (byte < 0x80) return value;
    }
    throw damaged('xz', this.#reader);
  }
}

/** A multibyte integer (1.2): seven bits a byte, the lowest first. */
function readVariable(reader: ChunkReader, cursor: { bytes: Buffer; at: number }): number {
  let value = 0;
  for (let place = 0; place < 9; place += 1) {
    const byte = cursor.bytes[cursor.at];
    if (byte === undefined) break;
    cursor.at += 1;
    value += (byte & 0x7f) * 2 ** (7 * place);
    if (byte < 0x80) return value;
  }
  throw damaged('xz', reader);
}

function makeCheck(type: number): Check | null {
  switch (type) {
    case 0x01:
      return makeCrc32();
    case 0x04:
      return new Crc64();
    case 0x0a: {
      const hash = createHash('sha256');
      return { update: (bytes) => void hash.update(bytes), digest: () => hash.digest() };
    }
    default:
      // None, or one that nobody has defined yet: then it is passed over, as the specification allows.
      return null;
  }
}

function makeCrc32(): Check {
  let crc = 0;
  return {
    update(bytes) {
      crc = crc32(bytes, crc);
    },
    digest() {
      const digest = Buffer.alloc(4);
      digest.writeUInt32LE(crc);
      return digest;
    },
  };
}

async function take(reader: ChunkReader, count: number): Promise<Buffer> {
  if (!(await reader.ensure(count))) throw cutOff('xz', reader);
  return reader.take(count);
}
