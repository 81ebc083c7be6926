import { ImageError } from '../core/errors.ts';
import { BufferPool } from '../core/pool.ts';
import { tracePoint } from '../core/trace.ts';
import { allSettled, Turns } from '../core/turns.ts';
import { readPadded, type Storage } from '../storage/storage.ts';
import { inContext } from './context.ts';

/** One compressed cluster that is wanted, or a part of it. */
export interface PackedBlock {
  /** Where the compressed bytes begin, and how many may belong to them. */
  host: number;
  packedLength: number;
  /** First wanted byte within the cluster; `target` takes as many as it is long. */
  skip: number;
  target: Buffer;
}

export interface UnpackerOptions {
  storage: Storage;
  /** Driver name, for errors. */
  format: string;
  /** Decompresses one block into `size` bytes; throws an ImageError where that is not what comes out. */
  unpack: (packed: Buffer, size: number) => Promise<Buffer>;
  /** Bytes of a block decompressed. */
  blockSize: number;
  /** Keep clusters that were wanted in part. Not where somebody may write: a place can get new contents. */
  keep: boolean;
}

/** Compressed clusters closer than this are read together. */
const READ_GAP = 64 * 1024;
const MAX_READ = 512 * 1024;
/** In flight at once, over all reads: enough to keep the thread pool busy while results are copied. */
const MAX_TASKS = 16;
/** Bounds what is in memory decompressed at once: some four clusters of 2 MiB. */
const MAX_BYTES = 8 * 1024 * 1024;
/** Runs that are read or decompressed at once. */
const MAX_RUNS = 4;
/** Parts of clusters are asked for one after the other: `dd bs=512`. */
const KEPT_BYTES = 2 * 1024 * 1024;

const traceUnpack = tracePoint('unpack_blocks');

/** Reads and decompresses clusters, many at once: neighbours in the file by one read, in parallel in the pool. */
export class Unpacker {
  readonly #options: UnpackerOptions;
  readonly #kept = new Map<number, Buffer>();
  readonly #pool = new BufferPool(MAX_READ, MAX_RUNS);
  readonly #runs = new Turns(MAX_RUNS);
  readonly #tasks: Turns;

  constructor(options: UnpackerOptions) {
    this.#options = options;
    this.#tasks = new Turns(Math.max(2, Math.min(MAX_TASKS, Math.floor(MAX_BYTES / options.blockSize))));
  }

  async read(clusters: PackedBlock[]): Promise<void> {
    const wanted = this.#options.keep ? clusters.filter((each) => !this.#fromKept(each)) : [...clusters];
    if (wanted.length === 0) return;
    wanted.sort((a, b) => a.host - b.host);
    await allSettled(Array.from(runsOf(wanted), (run) => this.#runs.run(() => this.#unpackRun(run))));
    if (traceUnpack.enabled) traceUnpack.emit({ file: this.#options.storage.name, clusters: wanted.length });
  }

  async #unpackRun(run: readonly PackedBlock[]): Promise<void> {
    const { packed, release } = await this.#readRun(run);
    try {
      await allSettled(run.map((each) => this.#tasks.run(() => this.#unpackInto(each, packed, run[0].host))));
    } finally {
      release();
    }
  }

  async #readRun(run: readonly PackedBlock[]): Promise<{ packed: Buffer; release: () => void }> {
    const { storage } = this.#options;
    const last = run[run.length - 1];
    if (last.host >= storage.size) {
      throw new ImageError('corrupt', 'A compressed cluster lies past the end of the file', {
        file: storage.name,
        format: this.#options.format,
        offset: last.host,
      });
    }
    let end = 0;
    for (const { host, packedLength } of run) end = Math.max(end, host + packedLength);
    const length = end - run[0].host;
    const whole = length <= MAX_READ ? this.#pool.take() : Buffer.allocUnsafe(length);
    const packed = whole.subarray(0, length);
    // The length is told in sectors, so the last one may reach past the end of the file.
    await readPadded(storage, run[0].host, packed);
    return { packed, release: () => this.#pool.give(whole) };
  }

  async #unpackInto(block: PackedBlock, packed: Buffer, base: number): Promise<void> {
    const { blockSize, storage, keep, unpack } = this.#options;
    const { host, packedLength, skip, target } = block;
    let plain: Buffer;
    try {
      plain = await unpack(packed.subarray(host - base, host - base + packedLength), blockSize);
    } catch (error) {
      throw located(error, { file: storage.name, format: this.#options.format, offset: host });
    }
    plain.copy(target, 0, skip, skip + target.length);
    if (keep && target.length < blockSize) this.#keep(host, plain);
  }

  #fromKept({ host, skip, target }: PackedBlock): boolean {
    const plain = this.#kept.get(host);
    if (plain === undefined) return false;
    plain.copy(target, 0, skip, skip + target.length);
    return true;
  }

  #keep(host: number, plain: Buffer): void {
    const most = Math.max(1, Math.floor(KEPT_BYTES / this.#options.blockSize));
    this.#kept.delete(host);
    this.#kept.set(host, plain);
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= most) break;
      this.#kept.delete(oldest);
    }
  }
}

function located(error: unknown, where: { file: string; format: string; offset: number }): unknown {
  if (!(error instanceof ImageError) || error.offset !== undefined) return inContext(error, where.file, where.format);
  return new ImageError(error.kind, error.message, { ...where, operation: 'read', cause: error });
}

/** Neighbours in the file, to be read at once; ascending. */
function* runsOf(clusters: readonly PackedBlock[]): Generator<PackedBlock[]> {
  let run: PackedBlock[] = [];
  let end = 0;
  for (const each of clusters) {
    const stop = each.host + each.packedLength;
    const fits = run.length > 0 && each.host - end <= READ_GAP && stop - run[0].host <= MAX_READ;
    if (!fits && run.length > 0) {
      yield run;
      run = [];
    }
    run.push(each);
    end = run.length === 1 ? stop : Math.max(end, stop);
  }
  if (run.length > 0) yield run;
}
