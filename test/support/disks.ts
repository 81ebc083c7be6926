import type { ExtentBatch } from '../../lib/core/extent.ts';
import { ExtentBatch as Batch, type Extent, type ExtentKind, extent } from '../../lib/core/extent.ts';
import { pipeline, readableFrom, type Stage } from '../../lib/core/streams.ts';
import type { Target } from '../../lib/sinks/target.ts';
import type { Mapped } from '../../lib/sources/extents.ts';
import { pattern } from './model.ts';

/** A run of a made-up disk: kind and bytes. */
export type Run = readonly [kind: ExtentKind, length: number];

/** A made-up disk whose data are a pattern, as a source and as the bytes that it must read as. */
export interface FakeDisk extends Mapped {
  readonly contents: Buffer;
  read(offset: number, buffer: Buffer): Promise<void>;
  /** Reads made so far: guest offset and length. */
  readonly reads: [number, number][];
  /** Called before each read; may throw or wait. */
  beforeRead: ((offset: number, length: number) => Promise<void> | void) | null;
}

export interface FakeDiskOptions {
  /** Extents name a host (themselves) where their bytes lie plain. Default true. */
  plain?: boolean;
  /** At most this many extents in one answer of `map`. */
  perMap?: number;
}

/** Makes such a disk of runs. */
export function fakeDisk(runs: readonly Run[], options: FakeDiskOptions = {}): FakeDisk {
  const { plain = true, perMap = Number.POSITIVE_INFINITY } = options;
  const size = runs.reduce((sum, [, length]) => sum + length, 0);
  const contents = Buffer.alloc(size);
  const all: Extent[] = [];
  let at = 0;
  for (const [kind, length] of runs) {
    if (kind === 'data') pattern(length, at + 1).copy(contents, at);
    all.push(extent(at, length, kind));
    at += length;
  }
  const disk: FakeDisk = {
    name: 'fake',
    size,
    contents,
    reads: [],
    beforeRead: null,
    async map(offset, length) {
      const found: Extent[] = [];
      for (const each of all) {
        const start = Math.max(offset, each.offset);
        const end = Math.min(offset + length, each.offset + each.length);
        if (end <= start || found.length >= perMap) continue;
        const part = extent(start, end - start, each.kind);
        part.layer = disk;
        if (plain && each.kind === 'data') [part.host, part.hostOffset] = [disk, start];
        found.push(part);
      }
      return found;
    },
    async read(offset, buffer) {
      await disk.beforeRead?.(offset, buffer.length);
      disk.reads.push([offset, buffer.length]);
      contents.copy(buffer, 0, offset, offset + buffer.length);
    },
  };
  return disk;
}

/** A target in memory that notes what is asked of it. */
export interface FakeTarget extends Target {
  readonly bytes: Buffer;
  readonly log: string[];
  /** Most operations at one time so far. */
  readonly mostAtOnce: number;
  state: 'open' | 'closed' | 'aborted';
  /** Called before each write and zero; may throw or wait. */
  beforeWrite: ((offset: number) => Promise<void> | void) | null;
}

/** Makes one of `size` bytes; members of `traits` replace its own. */
export function fakeTarget(size: number, traits: Partial<Target> = {}): FakeTarget {
  const bytes = Buffer.alloc(size, traits.readsAsZero === false ? 0xee : 0);
  let [now, most] = [0, 0];
  const during = async (what: string, offset: number, act: () => void) => {
    now += 1;
    most = Math.max(most, now);
    try {
      await target.beforeWrite?.(offset);
      await new Promise((resolve) => setImmediate(resolve));
      target.log.push(what);
      act();
    } finally {
      now -= 1;
    }
  };
  const target: FakeTarget = {
    format: 'fake',
    name: 'fake',
    size,
    granularity: 1,
    readsAsZero: true,
    sequential: false,
    source: null,
    bytes,
    log: [],
    state: 'open',
    beforeWrite: null,
    get mostAtOnce() {
      return most;
    },
    write: (offset, buffer) =>
      during(`write ${offset} ${buffer.length}`, offset, () => void buffer.copy(bytes, offset)),
    zero: (offset, length) =>
      during(`zero ${offset} ${length}`, offset, () => void bytes.fill(0, offset, offset + length)),
    async flush() {},
    async close() {
      target.state = 'closed';
    },
    async abort() {
      if (now > 0) throw new Error('aborted with writes in flight');
      target.state = 'aborted';
    },
  };
  const traced = Object.getOwnPropertyDescriptors(traits);
  return Object.defineProperties(target, traced) as FakeTarget;
}

/** A batch of loaded data at `offset`. */
export function loaded(offset: number, payload: Buffer, release: (() => void) | null = null): ExtentBatch {
  const each = extent(offset, payload.length, 'data');
  each.payload = payload;
  return new Batch([each], release);
}

/** A batch of one extent without payload. */
export function bare(offset: number, length: number, kind: ExtentKind): ExtentBatch {
  return new Batch([extent(offset, length, kind)]);
}

/** Sends batches through stages and collects what comes out. */
export async function through(batches: Iterable<ExtentBatch>, ...stages: Stage[]): Promise<ExtentBatch[]> {
  const out: ExtentBatch[] = [];
  async function* input() {
    yield* batches;
  }
  const { Writable } = await import('streamx');
  const sink = new Writable({
    write(batch, callback) {
      out.push(batch as ExtentBatch);
      callback(null);
    },
  });
  await pipeline(readableFrom(input()), ...stages, sink);
  return out;
}

/** Extents as text: `data 0+4096`. */
export function told(batches: Iterable<ExtentBatch>): string[] {
  const lines: string[] = [];
  for (const batch of batches) for (const { kind, offset, length } of batch) lines.push(`${kind} ${offset}+${length}`);
  return lines;
}

/** The guest bytes that loaded batches say, from offset 0. */
export function bytesOf(batches: Iterable<ExtentBatch>, size: number): Buffer {
  const bytes = Buffer.alloc(size);
  for (const batch of batches) for (const { payload, offset } of batch) payload?.copy(bytes, offset);
  return bytes;
}
