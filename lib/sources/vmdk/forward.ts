import { ImageError } from '../../core/errors.ts';
import { type Extent, ExtentBatch, extent } from '../../core/extent.ts';
import { isZero } from '../../core/pool.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  decodeMarker,
  GRAIN_MARKER_BYTES,
  grainBytes,
  MarkerType,
  maxGrainBytes,
  SECTOR,
} from '../../layouts/vmdk/index.ts';
import type { PipeInput } from '../../storage/pipe-input.ts';
import { forwardInput } from '../forward.ts';
import type { ForwardSource, SourceRequest } from '../source.ts';
import { stoppable } from '../stoppable.ts';
import { type ForwardPlan, planForward } from './forward-plan.ts';
import { inflateGrain } from './inflate-grain.ts';

/** Grains that are decompressed side by side: a batch. */
const PARALLEL = 16;
/** Metadata between grains larger than this is nothing that a disk could need: a grain directory. */
const MAX_METADATA_BYTES = 128 * 1024 * 1024;

const traceForward = tracePoint('vmdk_forward');

/**
 * Opens a stream-optimized image that comes through a pipe: compressed grains in guest order, each with its place before it. Throws
 * ForwardImpossible, with nothing consumed, for what can be seen not to be so.
 */
export async function openVmdkForward({ storage }: SourceRequest): Promise<ForwardSource> {
  const input = forwardInput(storage);
  const plan = await planForward(input);
  if (traceForward.enabled) traceForward.emit({ file: input.name, size: plan.size });
  return new VmdkForward(input, plan);
}

interface PackedGrain {
  /** Guest offset. */
  offset: number;
  /** Of its marker in the input. */
  host: number;
  bytes: Buffer;
}

class VmdkForward implements ForwardSource {
  readonly format = 'vmdk';
  readonly name: string;
  readonly size: number;
  readonly #input: PipeInput;
  readonly #plan: ForwardPlan;
  /** Grains that came, and those that the tables in passing told of. */
  #grains = 0;
  #told = 0;

  constructor(input: PipeInput, plan: ForwardPlan) {
    this.name = input.name;
    this.size = plan.size;
    this.#input = input;
    this.#plan = plan;
  }

  batches(): AsyncIterableIterator<ExtentBatch> {
    return stoppable(this.#batches(), this.#input);
  }

  close(): Promise<void> {
    return this.#input.close();
  }

  async *#batches(): AsyncGenerator<ExtentBatch, void, void> {
    const { grain, dataOffset } = this.#plan;
    await this.#input.skipTo(dataOffset);
    let at = 0;
    let batch: PackedGrain[] = [];
    for (let next = await this.#next(); next !== null; next = await this.#next()) {
      if (next.offset < at) throw this.#outOfOrder(next);
      // Unless they follow each other, zeros come between.
      const gap = next.offset > at;
      if (batch.length > 0 && (gap || batch.length === PARALLEL)) {
        yield await this.#unpack(batch);
        batch = [];
      }
      if (gap) yield new ExtentBatch([extent(at, next.offset - at, 'zero')]);
      batch.push(next);
      at = next.offset + grain;
    }
    if (batch.length > 0) yield await this.#unpack(batch);
    if (at < this.size) yield new ExtentBatch([extent(at, this.size - at, 'zero')]);
    await this.#checkEnd();
  }

  /** The next grain; null at the end of the stream. */
  async #next(): Promise<PackedGrain | null> {
    for (;;) {
      const host = this.#input.position;
      const sector = Buffer.alloc(SECTOR);
      const count = await this.#input.readNext(sector);
      if (count < SECTOR) {
        // Without a footer the file's end is the stream's: what is missing shows when the grains are counted.
        if (this.#plan.expected !== null && count === 0) return null;
        throw this.#corrupt('The input ends before its stream does', host);
      }
      const marker = decodeMarker(sector);
      if (marker.kind === 'grain') return this.#grain(marker, sector, host);
      if (marker.type === MarkerType.endOfStream) return null;
      await this.#metadata(marker, host);
    }
  }

  async #grain(marker: { sector: number; size: number }, sector: Buffer, host: number): Promise<PackedGrain> {
    const { grain } = this.#plan;
    const offset = marker.sector * SECTOR;
    if (offset % grain !== 0 || offset >= this.size) {
      throw this.#corrupt('A compressed grain names a place outside the disk', host);
    }
    const length = grainBytes(marker.size);
    if (length > maxGrainBytes(grain)) throw this.#corrupt('A compressed grain is larger than any can be', host);
    const bytes = Buffer.allocUnsafe(length);
    sector.copy(bytes);
    const rest = bytes.subarray(SECTOR);
    const count = await this.#input.readNext(rest);
    // The last one need not be filled up.
    if (SECTOR + count < GRAIN_MARKER_BYTES + marker.size) {
      throw this.#corrupt('The input ends within a compressed grain', host);
    }
    this.#grains += 1;
    return { offset, host, bytes: bytes.subarray(GRAIN_MARKER_BYTES, GRAIN_MARKER_BYTES + marker.size) };
  }

  /** Grain tables are counted, so that grains that are missing show; the rest is passed over. */
  async #metadata({ type, sectors }: { type: number; sectors: number }, host: number): Promise<void> {
    const known: readonly number[] = [MarkerType.grainTable, MarkerType.grainDirectory, MarkerType.footer];
    if (!known.includes(type) || sectors * SECTOR > MAX_METADATA_BYTES) {
      throw this.#corrupt(`A marker of unknown type ${type}`, host);
    }
    if (type !== MarkerType.grainTable) return this.#input.skipTo(this.#input.position + sectors * SECTOR);
    const { tableBytes, zeroGrains } = this.#plan;
    if (sectors * SECTOR !== tableBytes) throw this.#corrupt('A grain table has the wrong size', host);
    const table = Buffer.alloc(tableBytes);
    await this.#input.read(this.#input.position, table);
    this.#told += countGrains(table, zeroGrains);
  }

  async #unpack(batch: readonly PackedGrain[]): Promise<ExtentBatch> {
    const { grain } = this.#plan;
    const extents = await Promise.all(
      batch.map(async ({ offset, host, bytes }): Promise<Extent> => {
        const part = extent(offset, Math.min(grain, this.size - offset), 'data');
        const plain = await inflateGrain(bytes, grain, part.length).catch((cause) => {
          throw this.#corrupt('A compressed grain is damaged', host, cause);
        });
        part.payload = plain.subarray(0, part.length);
        return part;
      }),
    );
    return new ExtentBatch(extents);
  }

  /** Reads on to the pipe's end: its writer is not to be cut short. */
  async #checkEnd(): Promise<void> {
    const host = this.#input.position;
    await this.#input.drain();
    const expected = this.#plan.expected ?? this.#told;
    if (this.#grains === expected) return;
    throw this.#corrupt(`The stream has ${this.#grains} grains where its tables name ${expected}`, host);
  }

  #outOfOrder({ host }: PackedGrain): ImageError {
    return new ImageError(
      'unsupported',
      "The image's grains are not in guest order: it can be read from a file, but not from a pipe",
      { file: this.name, format: this.format, operation: 'read', offset: host },
    );
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

/** Entries of a grain table that name a grain. */
export function countGrains(table: Buffer, zeroGrains: boolean): number {
  if (isZero(table)) return 0;
  let count = 0;
  for (let at = 0; at + 4 <= table.length; at += 4) {
    const sector = table.readUInt32LE(at);
    if (sector !== 0 && !(sector === 1 && zeroGrains)) count += 1;
  }
  return count;
}
