import { ImageError } from '../core/errors.ts';
import type { ChunkReader, ChunkStream } from './chunks.ts';
import { cutOff, damaged, unsupportedPacking } from './unpack-error.ts';

// RFC 8878, sections 3.1.1 and 3.1.2.
const FRAME_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
const MAX_BLOCK = 128 * 1024;
/** What the zstd program accepts without being asked to. */
const MAX_WINDOW = 128 * 1024 * 1024;
const BLOCK_HEADER = 3;
const RLE_BLOCK = 1;
const CHECKSUM_BYTES = 4;

/** Takes a frame's header, then its blocks. Keeps what it can't use yet. */
interface FrameDecoder {
  push(bytes: Buffer, last: boolean): Uint8Array[];
}

/**
 * Unpacks zstd frames one after the other. fzstd decodes (pure JavaScript, in a stream, bounded by the window); it
 * checks no checksums, so that is done here, as is the cutting into frames and blocks. Node's zlib has zstd from
 * version 22.15 on only, and other packages take a frame at once or hide errors.
 */
export async function* unzstd(reader: ChunkReader): ChunkStream {
  const [{ Decompress }, { default: xxhash }] = await Promise.all([import('fzstd'), import('xxhash-wasm')]);
  const { create64 } = await xxhash();
  while (await reader.ensure(4)) {
    const magic = reader.view.readUInt32LE(0);
    if ((magic & 0xffff_fff0) >>> 0 === SKIPPABLE_MAGIC) {
      await skipFrame(reader);
      continue;
    }
    if (magic !== FRAME_MAGIC) throw damaged('zstd', reader);
    yield* unpackFrame(reader, Decompress, create64());
  }
  if (reader.available > 0) throw damaged('zstd', reader);
}

type DecompressClass = typeof import('fzstd').Decompress;

function makeDecoder(Decompress: DecompressClass): FrameDecoder {
  let output: Uint8Array[] = [];
  const stream = new Decompress((chunk) => void output.push(chunk));
  return {
    push(bytes, last) {
      output = [];
      stream.push(bytes, last);
      return output;
    },
  };
}

interface Hash64 {
  update(bytes: Uint8Array): unknown;
  digest(): bigint;
}

async function* unpackFrame(reader: ChunkReader, Decompress: DecompressClass, hash: Hash64): ChunkStream {
  const { headerBytes, hasChecksum, contentSize } = await readHeader(reader);
  const decoder = makeDecoder(Decompress);
  decoder.push(Buffer.from(reader.take(headerBytes)), false);
  let ahead = 0;
  let total = 0;
  for (let last = false; !last; ) {
    if (!(await reader.ensure(BLOCK_HEADER))) throw cutOff('zstd', reader);
    const block = reader.view.readUIntLE(0, BLOCK_HEADER);
    last = (block & 1) === 1;
    const length = BLOCK_HEADER + (((block >> 1) & 3) === RLE_BLOCK ? 1 : block >> 3);
    if (block >> 3 > MAX_BLOCK) throw damaged('zstd', reader);
    // With each block goes the first byte of the next one: a decoder that is left with nothing keeps an empty view
    // of all that it was ever given.
    const lookAhead = last ? 0 : 1;
    if (!(await reader.ensure(length + lookAhead))) throw cutOff('zstd', reader);
    const pieces = [reader.view.subarray(ahead, length + lookAhead)];
    // The decoder passes over the checksum without a look, but wants to see one.
    if (last && hasChecksum) pieces.push(Buffer.alloc(CHECKSUM_BYTES));
    for (const chunk of decode(reader, decoder, Buffer.concat(pieces), last)) {
      hash.update(chunk);
      total += chunk.length;
      yield Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length);
    }
    reader.take(length);
    ahead = lookAhead;
  }
  if (contentSize !== null && BigInt(total) !== contentSize) throw damaged('zstd', reader);
  if (hasChecksum) await checkChecksum(reader, hash);
}

function decode(reader: ChunkReader, decoder: FrameDecoder, bytes: Buffer, last: boolean): Uint8Array[] {
  try {
    return decoder.push(bytes, last).filter(({ length }) => length > 0);
  } catch (error) {
    if (error instanceof ImageError) throw error;
    throw damaged('zstd', reader, error);
  }
}

/** The lower half of the XXH64 of the contents. */
async function checkChecksum(reader: ChunkReader, hash: Hash64): Promise<void> {
  if (!(await reader.ensure(CHECKSUM_BYTES))) throw cutOff('zstd', reader);
  const told = reader.take(CHECKSUM_BYTES).readUInt32LE(0);
  if (Number(hash.digest() & 0xffff_ffffn) !== told) throw damaged('zstd', reader);
}

/** The frame header: its length with the magic, not consumed yet. Refuses windows larger than `MAX_WINDOW`. */
async function readHeader(reader: ChunkReader) {
  if (!(await reader.ensure(5))) throw cutOff('zstd', reader);
  const descriptor = reader.view[4];
  const single = (descriptor & 0x20) !== 0;
  const windowBytes = single ? 0 : 1;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3];
  const sizeBytes = [single ? 1 : 0, 2, 4, 8][descriptor >> 6];
  const headerBytes = 5 + windowBytes + dictionaryBytes + sizeBytes;
  if (!(await reader.ensure(headerBytes))) throw cutOff('zstd', reader);
  if ((descriptor & 0x08) !== 0) throw damaged('zstd', reader);
  if (dictionaryBytes > 0 && reader.view.readUIntLE(5 + windowBytes, dictionaryBytes) !== 0) {
    throw unsupportedPacking('The zstd stream on the input needs a dictionary');
  }
  const contentSize = readContentSize(reader.view, headerBytes - sizeBytes, sizeBytes);
  const window = single ? Number(contentSize) : windowSize(reader.view[5]);
  if (window > MAX_WINDOW) {
    throw unsupportedPacking(
      'The zstd stream on the input has a window larger than 128 MiB: unpack it with zstd --long',
    );
  }
  return { headerBytes, contentSize, hasChecksum: (descriptor & 0x04) !== 0 };
}

function readContentSize(view: Buffer, at: number, bytes: number): bigint | null {
  switch (bytes) {
    case 0:
      return null;
    case 2:
      return BigInt(view.readUInt16LE(at) + 256);
    case 8:
      return view.readBigUInt64LE(at);
    default:
      return BigInt(view.readUIntLE(at, bytes));
  }
}

function windowSize(byte: number): number {
  const base = 2 ** (10 + (byte >> 3));
  return base + (base / 8) * (byte & 7);
}

async function skipFrame(reader: ChunkReader): Promise<void> {
  if (!(await reader.ensure(8))) throw cutOff('zstd', reader);
  for (let left = reader.take(8).readUInt32LE(4); left > 0; ) {
    if (!(await reader.ensure(1))) throw cutOff('zstd', reader);
    left -= reader.take(Math.min(left, reader.available)).length;
  }
}
