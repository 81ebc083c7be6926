import { inflateRaw, zstdDecompress } from '../../core/codecs.ts';
import { ImageError } from '../../core/errors.ts';
import { type Extent, ExtentBatch, extent } from '../../core/extent.ts';
import { BufferPool } from '../../core/pool.ts';
import { tracePoint } from '../../core/trace.ts';
import { COMPRESSED_SECTOR } from '../../layouts/qcow2/index.ts';
import type { PipeInput } from '../../storage/pipe-input.ts';
import { forwardInput } from '../forward.ts';
import type { ForwardSource, SourceRequest } from '../source.ts';
import { stoppable } from '../stoppable.ts';
import { type ForwardImage, type ForwardStep, planForward, steps } from './forward-plan.ts';

const BATCH_BYTES = 2 * 1024 * 1024;
/** Compressed clusters that are decompressed side by side. */
const PARALLEL = 8;

const traceForward = tracePoint('qcow2_forward');

/**
 * Opens a qcow2 image that comes through a pipe: its tables are all in the pipe's head and its data follow in guest
 * order, as our own writer to standard output lays them out. Throws ForwardImpossible, with nothing consumed, where
 * that is not so.
 */
export async function openQcow2Forward({ storage }: SourceRequest): Promise<ForwardSource> {
  const input = forwardInput(storage);
  const image = await planForward(input);
  if (traceForward.enabled) traceForward.emit({ file: input.name, size: image.size });
  return new Qcow2Forward(input, image);
}

class Qcow2Forward implements ForwardSource {
  readonly format = 'qcow2';
  readonly name: string;
  readonly size: number;
  readonly #input: PipeInput;
  readonly #image: ForwardImage;
  readonly #pool = new BufferPool(BATCH_BYTES);
  /** The last sector of the compressed cluster before: the next one may begin in it. */
  #lastSector = Buffer.alloc(0);

  constructor(input: PipeInput, image: ForwardImage) {
    this.name = input.name;
    this.size = image.size;
    this.#input = input;
    this.#image = image;
  }

  batches(): AsyncIterableIterator<ExtentBatch> {
    return stoppable(this.#batches(), this.#input);
  }

  async *#batches(): AsyncGenerator<ExtentBatch, void, void> {
    let offset = 0;
    let packed: { step: ForwardStep; offset: number; bytes: Buffer }[] = [];
    for (const step of steps(this.#image)) {
      if (offset >= this.size) break;
      if (packed.length > 0 && (step.kind !== 'compressed' || packed.length === PARALLEL)) {
        yield await this.#unpack(packed);
        packed = [];
      }
      const length = Math.min(step.length, this.size - offset);
      if (step.kind === 'zero') yield new ExtentBatch([extent(offset, length, 'zero')]);
      else if (step.kind === 'plain') yield* this.#plain(step, offset, length);
      else packed.push({ step, offset, bytes: await this.#packedBytes(step) });
      offset += step.length;
    }
    if (packed.length > 0) yield await this.#unpack(packed);
    await this.#checkEnd();
  }

  close(): Promise<void> {
    return this.#input.close();
  }

  async *#plain(step: ForwardStep, offset: number, length: number): AsyncGenerator<ExtentBatch, void, void> {
    await this.#input.skipTo(step.host);
    for (let done = 0; done < length; done += BATCH_BYTES) {
      const buffer = this.#pool.take();
      const part = extent(offset + done, Math.min(BATCH_BYTES, length - done), 'data');
      part.payload = buffer.subarray(0, part.length);
      await this.#input.read(step.host + done, part.payload);
      yield new ExtentBatch([part], () => this.#pool.give(buffer));
    }
  }

  /** Reads a compressed cluster's sectors; the last may be cut off where the file ends with the stream in it. */
  async #packedBytes({ host, hostLength }: ForwardStep): Promise<Buffer> {
    const bytes = Buffer.alloc(hostLength);
    const known = this.#input.position - host;
    let filled = 0;
    if (known > 0) filled = this.#lastSector.copy(bytes, 0, this.#lastSector.length - known);
    else await this.#input.skipTo(host);
    await this.#input.readNext(bytes.subarray(filled));
    this.#lastSector = bytes.subarray(Math.max(0, hostLength - COMPRESSED_SECTOR));
    return bytes;
  }

  async #unpack(packed: readonly { step: ForwardStep; offset: number; bytes: Buffer }[]): Promise<ExtentBatch> {
    const { geometry, compressionType } = this.#image;
    const decompress = compressionType === 'zstd' ? zstdDecompress : inflateRaw;
    const extents = await Promise.all(
      packed.map(async ({ offset, step, bytes }): Promise<Extent> => {
        const part = extent(offset, Math.min(geometry.clusterSize, this.size - offset), 'data');
        const plain = await decompress(bytes, geometry.clusterSize).catch((cause) => {
          throw this.#corrupt('A compressed cluster is damaged', step.host, cause);
        });
        part.payload = plain.subarray(0, part.length);
        return part;
      }),
    );
    return new ExtentBatch(extents);
  }

  /**
   * Reads on to the pipe's end: its writer is not to be cut short, a damaged tail of a packed stream must show,
   * and an image that was cut off lacks its refcount table.
   */
  async #checkEnd(): Promise<void> {
    await this.#input.drain();
    if (this.#input.position >= this.#image.minimumSize) return;
    throw this.#corrupt('The input ends before the refcount table', this.#input.position);
  }

  #corrupt(message: string, offset: number, cause?: unknown): ImageError {
    return new ImageError('corrupt', message, {
      file: this.name,
      format: this.format,
      operation: 'read',
      offset,
      cause,
    });
  }
}
