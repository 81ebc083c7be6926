import { crc32, createInflateRaw, type InflateRaw } from 'node:zlib';
import type { ChunkReader, ChunkStream } from './chunks.ts';
import { cutOff, damaged } from './unpack-error.ts';

/** Deflate expands at most 1032 times: so much input at once keeps the output below 17 MiB. */
const SLICE_BYTES = 16 * 1024;
const CHUNK_BYTES = 256 * 1024;
const PIECE_BYTES = 64 * 1024;
/** Flags of a member's header. */
const Flag = { headerCrc: 0x02, extra: 0x04, name: 0x08, comment: 0x10, reserved: 0xe0 } as const;
/** CRC-32 and length of the contents, little-endian, at the end of each member (RFC 1952, 2.3). */
const TRAILER_BYTES = 8;
/** zlib's window of 32 KiB, with gzip's header and trailer checked. */
const GZIP_WINDOW_BITS = 31;

/** What is used of zlib-sync. Its own types are there only where the optional package is, and a build must not need it. */
interface Inflate {
  readonly result: Buffer | string | null;
  readonly msg: string | null;
  readonly err: number;
  push(input: Buffer, flush: number): void;
}
interface ZlibSync {
  readonly Inflate: new (options: { windowBits: number; chunkSize: number }) => Inflate;
  readonly Z_SYNC_FLUSH: number;
  readonly Z_STREAM_END: number;
  readonly Z_BUF_ERROR: number;
}
const ZLIB_SYNC: string = 'zlib-sync';

/**
 * Unpacks gzip (RFC 1952), member after member. As with gzip(1), what follows the last member is ignored unless it
 * begins as one more. The first member, mostly the only one, goes through zlib-sync where that is installed; it
 * leaks some memory with each instance, so that further members are left to Node's own zlib.
 * @param loading resolves to zlib-sync, or to null to do without
 */
export async function* gunzip(reader: ChunkReader, loading = loadZlibSync()): ChunkStream {
  const zlibSync = await loading;
  if (zlibSync !== null) {
    yield* firstMember(reader, zlibSync);
    if (!(await nextMember(reader))) return;
  }
  yield* gunzipByNode(reader);
}

async function loadZlibSync(): Promise<ZlibSync | null> {
  try {
    const loaded = (await import(ZLIB_SYNC)) as ZlibSync & { default?: ZlibSync };
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
  const at = Buffer.concat([before, slice]).indexOf(trailerOf(contents));
  return at < 0 ? null : at + TRAILER_BYTES - before.length;
}

function trailerOf({ crc, length }: { crc: number; length: number }): Buffer {
  const trailer = Buffer.alloc(TRAILER_BYTES);
  trailer.writeUInt32LE(crc, 0);
  trailer.writeUInt32LE(length % 0x1_0000_0000, 4);
  return trailer;
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

/** All members from here on, by Node's zlib. */
async function* gunzipByNode(reader: ChunkReader): ChunkStream {
  do {
    await skipHeader(reader);
    const contents = { crc: 0, length: 0 };
    for await (const chunk of inflateByNode(reader)) {
      contents.crc = crc32(chunk, contents.crc);
      contents.length += chunk.length;
      yield chunk;
    }
    if (!(await reader.ensure(TRAILER_BYTES))) throw cutOff('gzip', reader);
    if (!reader.take(TRAILER_BYTES).equals(trailerOf(contents))) throw damaged('gzip', reader);
  } while (await nextMember(reader));
}

/** The member header (RFC 1952, 2.3): ten bytes, then what its flags say. */
async function skipHeader(reader: ChunkReader): Promise<void> {
  const header = Buffer.from(await take(reader, 10));
  const flags = header[3];
  if (header.readUIntBE(0, 3) !== 0x1f8b08 || (flags & Flag.reserved) !== 0) throw damaged('gzip', reader);
  if (flags & Flag.extra) {
    for (let left = (await take(reader, 2)).readUInt16LE(0); left > 0; left -= 1) await take(reader, 1);
  }
  for (const text of [Flag.name, Flag.comment]) {
    if (flags & text) while ((await take(reader, 1))[0] !== 0);
  }
  if (flags & Flag.headerCrc) await take(reader, 2);
}

async function take(reader: ChunkReader, count: number): Promise<Buffer> {
  if (!(await reader.ensure(count))) throw cutOff('gzip', reader);
  return reader.take(count);
}

/** One deflate stream; consumes exactly its bytes. */
async function* inflateByNode(reader: ChunkReader): ChunkStream {
  const inflate = createInflateRaw({ chunkSize: CHUNK_BYTES });
  const feeding = feed(reader, inflate).catch((error) => void inflate.destroy(error));
  try {
    for await (const chunk of inflate) yield chunk as Buffer;
    await feeding;
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === 'Z_BUF_ERROR') throw cutOff('gzip', reader);
    if (code?.startsWith('Z_')) throw damaged('gzip', reader, error);
    throw error;
  } finally {
    inflate.destroy();
  }
}

async function feed(reader: ChunkReader, inflate: InflateRaw): Promise<void> {
  let over = false;
  const ended = new Promise<void>((resolve) => {
    for (const event of ['end', 'close']) inflate.once(event, resolve);
  }).then(() => {
    over = true;
  });
  while (!over) {
    if (!(await reader.ensure(1))) {
      inflate.end();
      return;
    }
    // Its memory is used again, and zlib works on another thread.
    const piece = Buffer.from(reader.view.subarray(0, PIECE_BYTES));
    const before = inflate.bytesWritten;
    // With the end of the stream inside the piece, no callback comes, but the end does.
    await Promise.race([new Promise((taken) => inflate.write(piece, taken)), ended]);
    reader.take(inflate.bytesWritten - before);
  }
}
