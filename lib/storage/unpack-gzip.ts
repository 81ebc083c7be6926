import { Readable } from 'node:stream';
import { crc32, createGunzip } from 'node:zlib';
import type { Inflate } from 'zlib-sync';
import type { ChunkReader, ChunkStream } from './chunks.ts';
import { cutOff, damaged } from './unpack-error.ts';

/** Deflate expands at most 1032 times: so much input at once keeps the output below 17 MiB. */
const SLICE_BYTES = 16 * 1024;
const CHUNK_BYTES = 1024 * 1024;
/** CRC-32 and length of the contents, little-endian, at the end of each member (RFC 1952, 2.3). */
const TRAILER_BYTES = 8;
/** zlib's window of 32 KiB, with gzip's header and trailer checked. */
const GZIP_WINDOW_BITS = 31;

type ZlibSync = typeof import('zlib-sync');

/**
 * Unpacks gzip (RFC 1952), member after member. As with gzip(1), what follows the last member is ignored unless it
 * begins as one more. The first member, mostly the only one, goes through zlib-sync where that is installed; it
 * leaks some memory with each instance, so that further members are left to Node's own zlib.
 */
export async function* gunzip(reader: ChunkReader): ChunkStream {
  const zlibSync = await loadZlibSync();
  if (zlibSync !== null) {
    yield* firstMember(reader, zlibSync);
    if (!(await nextMember(reader))) return;
  }
  yield* gunzipByNode(reader);
}

async function loadZlibSync(): Promise<ZlibSync | null> {
  try {
    const loaded = (await import('zlib-sync')) as ZlibSync & { default?: ZlibSync };
    return loaded.default ?? loaded;
  } catch {
    return null;
  }
}

async function* firstMember(reader: ChunkReader, zlibSync: ZlibSync): ChunkStream {
  const inflate = new zlibSync.Inflate({ windowBits: GZIP_WINDOW_BITS, chunkSize: CHUNK_BYTES });
  const contents = { crc: 0, length: 0 };
  let before: Buffer = Buffer.alloc(0);
  while (await reader.ensure(1)) {
    const slice = reader.view.subarray(0, SLICE_BYTES);
    for (const chunk of push(reader, inflate, slice, zlibSync)) {
      contents.crc = crc32(chunk, contents.crc);
      contents.length += chunk.length;
      yield chunk;
    }
    if (inflate.err === zlibSync.Z_STREAM_END) {
      reader.take(endOfMember(before, slice, contents) ?? slice.length);
      return;
    }
    before = Buffer.from(Buffer.concat([before, slice]).subarray(-(TRAILER_BYTES - 1)));
    reader.take(slice.length);
  }
  throw cutOff('gzip', reader);
}

/** zlib-sync returns with its output buffer full and more to come: it is asked until nothing does. */
function* push(reader: ChunkReader, inflate: Inflate, slice: Buffer, zlibSync: ZlibSync): Generator<Buffer> {
  for (let input = slice; ; input = slice.subarray(slice.length)) {
    inflate.push(input, zlibSync.Z_SYNC_FLUSH);
    if (inflate.err === zlibSync.Z_BUF_ERROR) return;
    if (inflate.err < 0) throw damaged('gzip', reader, inflate.msg);
    const output = inflate.result as Buffer;
    if (output.length > 0) yield output;
    if (inflate.err === zlibSync.Z_STREAM_END || output.length < CHUNK_BYTES) return;
  }
}

/**
 * How many bytes of `slice` belong to the member that ended in it. zlib-sync does not tell, but what the trailer
 * says is known; it is searched with the bytes before the slice, as it may have begun there.
 */
function endOfMember(before: Buffer, slice: Buffer, contents: { crc: number; length: number }): number | null {
  const trailer = Buffer.alloc(TRAILER_BYTES);
  trailer.writeUInt32LE(contents.crc, 0);
  trailer.writeUInt32LE(contents.length % 0x1_0000_0000, 4);
  const at = Buffer.concat([before, slice]).indexOf(trailer);
  return at < 0 ? null : at + TRAILER_BYTES - before.length;
}

/** Whether one more member follows; zeros between them are padding. Consumes what is none. */
async function nextMember(reader: ChunkReader): Promise<boolean> {
  while (await reader.ensure(1)) {
    if (reader.view[0] !== 0) break;
    reader.take(1);
  }
  if ((await reader.ensure(2)) && reader.view.readUInt16BE(0) === 0x1f8b) return true;
  while (await reader.ensure(1)) reader.take(reader.available);
  return false;
}

async function* gunzipByNode(reader: ChunkReader): ChunkStream {
  const unpacked = createGunzip({ chunkSize: CHUNK_BYTES });
  // The pieces are read ahead, and a chunk's memory is used again: they are copied.
  const pieces = async function* () {
    while (await reader.ensure(1)) yield Buffer.from(reader.take(Math.min(reader.available, CHUNK_BYTES)));
  };
  const input = Readable.from(pieces(), { objectMode: false });
  input.on('error', (error) => unpacked.destroy(error));
  input.pipe(unpacked);
  try {
    for await (const chunk of unpacked) yield chunk as Buffer;
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === 'Z_BUF_ERROR') throw cutOff('gzip', reader);
    if (code?.startsWith('Z_')) throw damaged('gzip', reader, error);
    throw error;
  } finally {
    input.destroy();
  }
}
