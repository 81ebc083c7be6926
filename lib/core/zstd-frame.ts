/**
 * Just enough of the zstd frame format (RFC 8878, sections 3.1.1 and 3.1.2) to tell where a frame ends and
 * how much memory a decoder may take for it, before a decoder sees it.
 */
import { ensure, ImageError } from './errors.ts';

const MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
const SKIPPABLE_MASK = 0xfffffff0;
const MAX_BLOCK = 128 * 1024;
/**
 * A block's header doesn't tell how much a compressed block expands to, only that it is not more than
 * 128 KiB. Encoders cut blocks as small as 8 KiB, so an honest frame may look 16 times larger than it is.
 */
const BLOCK_SLACK = 16;
const MIN_LIMIT = 1024 * 1024;
const BLOCK_HEADER = 3;
const BlockType = { raw: 0, rle: 1, compressed: 2 } as const;

export interface BoundedFrame {
  /** The frame alone, its window made no larger than the contents need. */
  bytes: Buffer;
  /** Bytes of the frame where it lies. */
  length: number;
  /** Holds no contents. */
  skippable: boolean;
}

interface FrameHeader {
  /** Bytes before the first block. */
  length: number;
  /** Bytes, or null for a single segment, whose window is its contents. */
  window: number | null;
  contentSize: number | null;
  checksum: boolean;
}

/**
 * The frame at the beginning of `packed`, once it is sure that it is whole and that it can't expand to
 * much more than `size` bytes. `corrupt` where it can, or is none.
 */
export function boundedFrame(packed: Buffer, size: number): BoundedFrame {
  ensure(packed.length >= 5, 'A zstd frame is cut off');
  const magic = packed.readUInt32LE(0);
  if ((magic & SKIPPABLE_MASK) >>> 0 === SKIPPABLE_MAGIC) return skippable(packed);
  ensure(magic === MAGIC, 'A compressed cluster does not begin with a zstd frame');
  const header = decodeHeader(packed);
  ensure(header.contentSize === null || header.contentSize <= size, 'A zstd frame holds more than a cluster');
  const length = endOfBlocks(packed, header, size);
  const frame = packed.subarray(0, length);
  return { bytes: header.window === null ? frame : smallWindow(frame, header.window, size), length, skippable: false };
}

function skippable(packed: Buffer): BoundedFrame {
  ensure(packed.length >= 8, 'A zstd frame is cut off');
  const length = 8 + packed.readUInt32LE(4);
  ensure(length <= packed.length, 'A zstd frame is cut off');
  return { bytes: packed.subarray(0, length), length, skippable: true };
}

function decodeHeader(packed: Buffer): FrameHeader {
  const descriptor = packed[4];
  const singleSegment = (descriptor & 0x20) !== 0;
  const dictionary = [0, 1, 2, 4][descriptor & 3];
  const contentBytes = [singleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6];
  const contentAt = 5 + (singleSegment ? 0 : 1) + dictionary;
  const length = contentAt + contentBytes;
  ensure((descriptor & 0x08) === 0, 'A zstd frame has reserved bits set');
  ensure(length <= packed.length, 'A zstd frame is cut off');
  return {
    length,
    window: singleSegment ? null : windowSize(packed[5]),
    contentSize: contentSize(packed, contentAt, contentBytes),
    checksum: (descriptor & 0x04) !== 0,
  };
}

function windowSize(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >> 3));
  return base + (base / 8) * (descriptor & 7);
}

function contentSize(packed: Buffer, at: number, bytes: number): number | null {
  switch (bytes) {
    case 1:
      return packed[at];
    case 2:
      return packed.readUInt16LE(at) + 256;
    case 4:
      return packed.readUInt32LE(at);
    case 8:
      return packed.readUInt32LE(at + 4) * 0x1_0000_0000 + packed.readUInt32LE(at);
    default:
      return null;
  }
}

/** Walks the block headers; returns where the frame ends. */
function endOfBlocks(packed: Buffer, header: FrameHeader, size: number): number {
  const blockMax = Math.min(MAX_BLOCK, header.window ?? header.contentSize ?? MAX_BLOCK);
  const limit = Math.max(MIN_LIMIT, size * BLOCK_SLACK);
  let plain = 0;
  let expandable = 0;
  let at = header.length;
  for (let last = false; !last; ) {
    ensure(at + BLOCK_HEADER <= packed.length, 'A zstd frame is cut off');
    const block = packed.readUIntLE(at, BLOCK_HEADER);
    const type = (block >> 1) & 3;
    const bytes = block >> 3;
    last = (block & 1) === 1;
    ensure(type <= BlockType.compressed && bytes <= MAX_BLOCK, 'A zstd block is invalid');
    if (type === BlockType.compressed) expandable += blockMax;
    else plain += bytes;
    ensure(plain <= size && plain + expandable <= limit, 'A zstd frame expands to more than a cluster');
    at += BLOCK_HEADER + (type === BlockType.rle ? 1 : bytes);
  }
  if (header.checksum) at += 4;
  ensure(at <= packed.length, 'A zstd frame is cut off');
  return at;
}

/** The largest window that libzstd decodes by default; one in a header beyond it is refused everywhere. */
const MAX_WINDOW = 128 * 1024 * 1024;

/**
 * A decoder allocates the window that the header asks for. Matches reach back no farther than the
 * contents do, so a window as large as the contents serves as well.
 */
function smallWindow(frame: Buffer, window: number, size: number): Buffer {
  if (window > MAX_WINDOW) throw new ImageError('corrupt', 'A zstd frame asks for too large a window');
  const enough = Math.max(MAX_BLOCK, 2 ** Math.ceil(Math.log2(size)));
  if (window <= enough) return frame;
  const copy = Buffer.from(frame);
  copy[5] = (Math.log2(enough) - 10) << 3;
  return copy;
}
