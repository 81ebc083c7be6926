import { inflateZlib } from '../../core/codecs.ts';
import { ImageError } from '../../core/errors.ts';
import { ChunkType } from '../../layouts/dmg/index.ts';
import { ChunkReader, type ChunkStream } from '../../storage/chunks.ts';

/** Decompresses one chunk to exactly `size` bytes, or throws an ImageError. */
type Unpack = (packed: Buffer, size: number) => Promise<Buffer>;

/** Decoders load when they are needed: nearly every image uses one of them. */
const DECODERS: Readonly<Record<number, Unpack>> = {
  [ChunkType.zlib]: inflateZlib,
  [ChunkType.adc]: async (packed, size) => (await import('../../core/adc.ts')).decodeAdc(packed, size),
  [ChunkType.lzfse]: async (packed, size) => (await import('../../core/lzfse.ts')).decodeLzfse(packed, size),
  [ChunkType.bzip2]: async (packed, size) => {
    const { bunzip2 } = await import('../../storage/unpack-bzip2.ts');
    return gathered('bzip2', bunzip2(readerOf(packed)), size);
  },
  [ChunkType.lzma]: async (packed, size) => {
    const { unxz } = await import('../../storage/unpack-xz.ts');
    return gathered('xz', unxz(readerOf(packed), size), size);
  },
};

/** Decompresses a chunk of that type. `unsupported` for a type that nobody knows. */
export function unpackChunk(type: number, packed: Buffer, size: number): Promise<Buffer> {
  const unpack = DECODERS[type];
  if (unpack !== undefined) return unpack(packed, size);
  const code = type.toString(16).padStart(8, '0');
  return Promise.reject(new ImageError('unsupported', `Chunks of type 0x${code} are not supported`));
}

function readerOf(packed: Buffer): ChunkReader {
  async function* once(): ChunkStream {
    yield packed;
  }
  return new ChunkReader(once());
}

/** The contents of a stream, of which no more than `size` bytes are kept at any time. */
async function gathered(name: string, stream: ChunkStream, size: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let have = 0;
  try {
    for await (const part of stream) {
      have += part.length;
      if (have > size) break;
      parts.push(Buffer.from(part));
    }
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    const what = error.kind === 'unsupported' ? 'of a kind that is not supported' : 'broken';
    throw new ImageError(error.kind, `The ${name} stream of a chunk is ${what}`, { cause: error });
  }
  if (have !== size) {
    const many = have > size ? `more than ${size}` : `${have} bytes instead of ${size}`;
    throw new ImageError('corrupt', `The ${name} stream of a chunk has ${many}`);
  }
  return parts.length === 1 ? parts[0] : Buffer.concat(parts, size);
}
