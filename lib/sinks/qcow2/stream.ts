import { ImageError } from '../../core/errors.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import { isZero } from '../../core/pool.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  ExtensionType,
  encodeFeatureNames,
  encodeHead,
  FEATURE_NAMES,
  geometryOf,
  type HeaderExtension,
  l1EntriesFor,
  MAX_L1_BYTES,
  type Qcow2Geometry,
  type Qcow2Header,
} from '../../layouts/qcow2/index.ts';
import type { Source } from '../../sources/source.ts';
import type { Storage } from '../../storage/storage.ts';
import { StreamImpossible } from '../stream.ts';
import type { ExtentPlan, Target } from '../target.ts';
import { type ClusterRules, type ClusterRun, clusterRuns } from './cluster-runs.ts';
import { newHeader } from './create.ts';
import { checkSettings, type Qcow2Settings } from './settings.ts';
import { layOut, type StreamLayout } from './stream-layout.ts';
import {
  Appender,
  appendL1Table,
  appendL2Tables,
  appendRefcountBlocks,
  appendRefcountTable,
  planChanged,
} from './stream-metadata.ts';

/** What a driver gets for an image into a pipe (the shape of formats' StreamRequest). */
export interface Qcow2StreamRequest {
  storage: Storage;
  size: number | null;
  options: AnyOptionValues;
  backing: { filename: string; format: string | null; source: Source | null } | null;
  plan: ExtentPlan | null;
  compress: boolean;
}

const traceLayout = tracePoint('qcow2_stream_layout');

/**
 * Begins a qcow2 image that is written in one forward pass: from the plan follows where everything will lie, so all
 * metadata that reading needs are written at once, and the data behind them as they come. The plan is walked three
 * times; memory stays at one byte for each L1 entry. Throws StreamImpossible where a temporary file is needed.
 */
export async function createQcow2Stream(request: Qcow2StreamRequest): Promise<Target> {
  const { storage, size, plan, compress, backing } = request;
  const settings = checkSettings(request.options, backing !== null);
  refuseUnstreamable(settings, request.options);
  if (size === null || plan === null) throw new StreamImpossible('what is in it shows only at its end');
  if (settings.encryption !== null) throw new StreamImpossible('it is encrypted');
  if (compress) throw new StreamImpossible('how small clusters become shows only when they are compressed');
  const header = newHeader(settings, size);
  const geometry = geometryOf(header);
  if (l1EntriesFor(size, geometry) * 8 > MAX_L1_BYTES) {
    throw new ImageError('invalid', 'Image is too big for its cluster size', { format: 'qcow2', operation: 'create' });
  }
  const rules: ClusterRules = {
    clusterSize: geometry.clusterSize,
    hasBacking: backing !== null,
    zeroClusters: settings.version === 3,
    allData: settings.preallocation === 'metadata',
  };
  const layout = await layOut(clusterRuns(plan, rules), l1EntriesFor(size, geometry), geometry);
  if (traceLayout.enabled) {
    const { l2Count, dataClusters, totalClusters } = layout;
    traceLayout.emit({ file: storage.name, l2Count, dataClusters, totalClusters });
  }
  const out = new Appender(storage);
  await appendHead(out, header, layout, geometry, backing);
  await appendRefcountBlocks(out, layout, geometry);
  await appendL1Table(out, layout, geometry);
  await appendL2Tables(out, clusterRuns(plan, rules), layout, geometry);
  return new Qcow2StreamTarget({ out, storage, size, layout, geometry, backing, runs: clusterRuns(plan, rules) });
}

function refuseUnstreamable({ preallocation, dataFile }: Qcow2Settings, options: AnyOptionValues): void {
  let what: string;
  if (dataFile !== null) what = 'an external data file';
  else if (preallocation === 'falloc' || preallocation === 'full') what = `preallocation=${preallocation}`;
  else if (options.nocow === true) what = 'nocow';
  else if (options.extent_size_hint !== undefined) what = 'an extent size hint';
  else return;
  throw new ImageError('unsupported', `A qcow2 image in a pipe can't have ${what}`, {
    format: 'qcow2',
    operation: 'create',
  });
}

async function appendHead(
  out: Appender,
  header: Qcow2Header,
  layout: StreamLayout,
  geometry: Qcow2Geometry,
  backing: Qcow2StreamRequest['backing'],
): Promise<void> {
  header.l1Entries = layout.l1Entries;
  header.l1Offset = layout.l1Offset;
  header.refcountTableOffset = layout.refcountTableOffset;
  header.refcountTableClusters = layout.refcountTableClusters;
  const extensions: HeaderExtension[] = [];
  if (backing?.format) extensions.push({ type: ExtensionType.backingFormat, data: Buffer.from(backing.format) });
  if (header.version === 3) {
    const names = { type: ExtensionType.featureNames, data: encodeFeatureNames(FEATURE_NAMES) };
    const tail = { extensions: [...extensions, names], backingFile: backing?.filename ?? null };
    // A help only: it gives way where a cluster is too small for it.
    if (encodeHead(header, tail) !== null) extensions.push(names);
  }
  const head = encodeHead(header, { extensions, backingFile: backing?.filename ?? null });
  if (head === null) {
    throw new ImageError('invalid', 'Backing file name does not fit into the first cluster', { format: 'qcow2' });
  }
  await out.append(head);
  await out.padTo(geometry.clusterSize);
}

interface StreamState {
  out: Appender;
  storage: Storage;
  size: number;
  layout: StreamLayout;
  geometry: Qcow2Geometry;
  backing: Qcow2StreamRequest['backing'];
  /** The plan's third walk, in step with the data. */
  runs: AsyncGenerator<ClusterRun[], void, void>;
}

/** See `createQcow2Stream`. Offsets are guest offsets; data clusters follow each other in the file. */
class Qcow2StreamTarget implements Target {
  readonly format = 'qcow2';
  readonly name: string;
  readonly size: number;
  readonly granularity: number;
  readonly readsAsZero: boolean;
  readonly sequential = true;
  readonly source = null;
  readonly #state: StreamState;
  /** Data runs that were taken from the plan and not yet written. */
  readonly #ahead: ClusterRun[] = [];
  /** The run being written, in guest bytes; null: none is left. */
  #run: { start: number; end: number } | null = { start: 0, end: 0 };
  /** Guest offset up to which everything is written. */
  #at = 0;
  /** Calls one after the other: whoever makes them at once still gets them in order. */
  #turn: Promise<void> = Promise.resolve();
  #ended = false;

  constructor(state: StreamState) {
    this.#state = state;
    this.name = state.storage.name;
    this.size = state.size;
    this.granularity = state.geometry.clusterSize;
    this.readsAsZero = state.backing === null;
  }

  write(offset: number, buffer: Buffer): Promise<void> {
    return this.#inTurn(() => this.#write(offset, buffer, buffer.length));
  }

  zero(offset: number, length: number): Promise<void> {
    return this.#inTurn(() => this.#write(offset, null, length));
  }

  flush(): Promise<void> {
    return this.#inTurn(() => this.#state.out.flush());
  }

  close(): Promise<void> {
    if (this.#ended) return this.#turn;
    this.#ended = true;
    return this.#inTurn(async () => {
      const { out, layout, geometry, storage } = this.#state;
      while (this.#run !== null) await this.#advance(this.#run.end);
      if (out.position !== layout.refcountTableOffset) throw planChanged();
      await appendRefcountTable(out, layout, geometry);
      await out.flush();
      await storage.close();
    });
  }

  async abort(): Promise<void> {
    this.#ended = true;
    await this.#state.storage.close({ discard: true });
    await this.#turn.catch(() => {});
    await this.#state.runs.return();
  }

  #inTurn(task: () => Promise<void>): Promise<void> {
    this.#turn = this.#turn.then(task);
    // The caller sees a failure; that nobody waits for the turn itself is no reason to end the process.
    this.#turn.catch(() => {});
    return this.#turn;
  }

  /** Writes what of the range lies in data clusters; null stands for zeros. */
  async #write(offset: number, buffer: Buffer | null, length: number): Promise<void> {
    if (offset < this.#at || offset + length > this.size) {
      throw new ImageError('invalid', 'Writes to a pipe must come in order', { format: 'qcow2', offset });
    }
    const end = offset + length;
    for (let at = offset; at < end; ) {
      await this.#advance(at);
      const start = this.#run?.start ?? this.size;
      if (at < start) {
        const outside = Math.min(end, start);
        // Data where the plan had none has no place in the file any more.
        if (buffer !== null && !isZero(buffer, at - offset, outside - offset)) throw planChanged();
        at = outside;
      } else {
        const stop = Math.min(end, this.#run?.end as number);
        if (buffer === null) await this.#state.out.appendZeros(stop - at);
        else await this.#state.out.append(buffer.subarray(at - offset, stop - offset));
        at = stop;
        this.#at = at;
      }
    }
  }

  /** Fills up data clusters before guest offset `to` and makes the run that ends behind it the current one. */
  async #advance(to: number): Promise<void> {
    while (this.#run !== null) {
      const { start, end } = this.#run;
      const from = Math.max(start, this.#at);
      const stop = Math.min(to, end);
      if (from < stop) await this.#fill(from, stop);
      if (this.#at < to) this.#at = Math.max(this.#at, stop);
      if (to < end) return;
      const next = await this.#nextRun();
      this.#run = next;
      if (next === null) return;
    }
  }

  /** What nobody wrote: the backing file's bytes, or zeros. */
  async #fill(from: number, to: number): Promise<void> {
    const { out, backing } = this.#state;
    const below = backing?.source ?? null;
    if (backing !== null && below === null && from < this.size) {
      throw new ImageError('unsupported', 'A cluster is written in part, and its backing file is not open', {
        format: 'qcow2',
        offset: from,
      });
    }
    const inBacking = below === null ? 0 : Math.max(0, Math.min(to, below.size, this.size) - from);
    const buffer = Buffer.alloc(Math.min(inBacking, 1024 * 1024));
    for (let done = 0; done < inBacking; done += buffer.length) {
      const part = buffer.subarray(0, Math.min(buffer.length, inBacking - done));
      await (below as Source).read(from + done, part);
      await out.append(part);
    }
    await out.appendZeros(to - from - inBacking);
  }

  async #nextRun(): Promise<{ start: number; end: number } | null> {
    const { clusterSize } = this.#state.geometry;
    while (this.#ahead.length === 0) {
      const { value, done } = await this.#state.runs.next();
      if (done) return null;
      for (const run of value) if (run.kind === 'data') this.#ahead.push(run);
      this.#ahead.reverse();
    }
    const { first, count } = this.#ahead.pop() as ClusterRun;
    return { start: first * clusterSize, end: (first + count) * clusterSize };
  }
}
