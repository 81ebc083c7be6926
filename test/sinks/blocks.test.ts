import test from 'ava';
import fc from 'fast-check';
import { deflateRaw, inflateRaw } from '../../lib/core/codecs.ts';
import type { BlockStore } from '../../lib/sinks/blocks/store.ts';
import { WritableTables } from '../../lib/sinks/blocks/tables.ts';
import { BlockTarget } from '../../lib/sinks/blocks/target.ts';
import { BlockSource } from '../../lib/sources/block-source.ts';
import { Block } from '../../lib/sources/block-table.ts';
import { CachedTables, type TableShape } from '../../lib/sources/cached-tables.ts';
import type { Source } from '../../lib/sources/source.ts';
import { type MemoryStorage, memoryStorage } from '../../lib/storage/memory.ts';
import { DiskModel, pattern, Random } from '../support/model.ts';

/**
 * A format of the test's own: a directory of pages (32 bits each, host offset / 512) at 512, pages of entries of 64 bits, blocks
 * behind. An entry is 0, 1 (zero), or a host offset; compressed ones have the top bit, and their length above 2^40.
 */
const DIRECTORY = 512;
const PAGE_ENTRIES = 8;
const PACKED = 2 ** 63;
const LENGTH_UNIT = 2 ** 40;

interface ToyOptions {
  size: number;
  blockSize: number;
  canZero: boolean;
  backing: Source | null;
  fresh: boolean;
}

function readEntry(bytes: Buffer, index: number): number {
  return Number(bytes.readBigUInt64LE(index * 8));
}

function toyShape(directory: Buffer, blocks: number): TableShape {
  return {
    blocks,
    pageEntries: PAGE_ENTRIES,
    entrySize: 8,
    pageOffset: (page) => directory.readUInt32LE(page * 4) * 512 || -1,
    decode(bytes, index) {
      const entry = readEntry(bytes, index);
      if (entry >= PACKED) return Block.packed;
      if (entry === 0) return Block.unallocated;
      return entry === 1 ? Block.zero : entry;
    },
    packed(bytes, index) {
      const entry = Number(bytes.readBigUInt64LE(index * 8) - BigInt(PACKED));
      return { host: entry % LENGTH_UNIT, packedLength: Math.floor(entry / LENGTH_UNIT) };
    },
  };
}

class ToyStore implements BlockStore {
  readonly format = 'toy';
  readonly name = 'toy';
  readonly storage: MemoryStorage;
  readonly data: MemoryStorage;
  readonly size: number;
  readonly blockSize: number;
  readonly fresh: boolean;
  readonly backing: Source | null;
  readonly hasBacking: boolean;
  readonly canZero: boolean;
  readonly source: Source;
  readonly tables: WritableTables;
  readonly directory: Buffer;
  readonly packing: BlockStore['packing'];
  end: number;

  constructor(storage: MemoryStorage, options: ToyOptions) {
    const { size, blockSize } = options;
    this.storage = storage;
    this.data = storage;
    this.size = size;
    this.blockSize = blockSize;
    this.fresh = options.fresh;
    this.backing = options.backing;
    this.hasBacking = options.backing !== null;
    this.canZero = options.canZero;
    const blocks = Math.ceil(size / blockSize);
    this.directory = Buffer.alloc(Math.ceil(blocks / PAGE_ENTRIES) * 4);
    this.end = Math.max(storage.size, Math.ceil((DIRECTORY + this.directory.length) / 512) * 512);
    const shape = toyShape(this.directory, blocks);
    this.tables = new WritableTables({
      storage,
      format: 'toy',
      what: 'page',
      commit: () => this.commit(),
      shape: {
        ...shape,
        encode: (bytes, index, state) => {
          const entry = state === Block.unallocated ? 0 : state === Block.zero ? 1 : state;
          bytes.writeBigUInt64LE(BigInt(entry), index * 8);
        },
        makePage: async (page) => {
          const offset = Math.ceil(this.end / 512) * 512;
          this.end = offset + PAGE_ENTRIES * 8;
          this.directory.writeUInt32LE(offset / 512, page * 4);
          return offset;
        },
      },
    });
    const tables = this.tables;
    const unpack = (packed: Buffer, length: number) => inflateRaw(packed, length);
    this.source = new BlockSource({
      format: 'toy',
      storage,
      size,
      blockSize,
      tables,
      writable: true,
      unpack,
      describe: () => ({}),
    });
    this.packing = {
      async compress(plain) {
        const packed = await deflateRaw(plain, { windowBits: 12 });
        return packed.length < plain.length ? packed : null;
      },
      reserve: async (length) => {
        this.end += length;
        return this.end - length;
      },
      link(page, block, host, length) {
        const { page: held, first } = page as unknown as { page: { bytes: Buffer; dirty: boolean }; first: number };
        held.bytes.writeBigUInt64LE(BigInt(PACKED) + BigInt(host + length * LENGTH_UNIT), (block - first) * 8);
        held.dirty = true;
      },
      unpack: async (page, block) => {
        const { page: held, first } = page as unknown as { page: { bytes: Buffer }; first: number };
        const { host, packedLength } = shape.packed?.(held.bytes, block - first, block) ?? { host: 0, packedLength: 0 };
        const packed = Buffer.alloc(packedLength);
        await storage.read(host, packed);
        return inflateRaw(packed, blockSize);
      },
    };
  }

  async allocate(blocks: number) {
    // Fewer than were asked for, so that writes come in pieces.
    const count = Math.min(blocks, 3);
    const host = Math.ceil(this.end / 512) * 512;
    this.end = host + count * this.blockSize;
    return { host, blocks: count, fresh: host >= this.storage.size };
  }

  async commit() {
    await this.tables.write();
    await this.storage.write(DIRECTORY, this.directory);
  }

  async complete() {
    await this.storage.write(0, Buffer.from('toy!'));
  }

  async close() {}
}

/** The closed image, read by the half that knows nothing of the target. */
async function reread(storage: MemoryStorage, { size, blockSize }: ToyOptions): Promise<BlockSource> {
  const blocks = Math.ceil(size / blockSize);
  const directory = Buffer.alloc(Math.ceil(blocks / PAGE_ENTRIES) * 4);
  await storage.read(DIRECTORY, directory);
  const tables = new CachedTables(storage, toyShape(directory, blocks));
  const unpack = (packed: Buffer, length: number) => inflateRaw(packed, length);
  return new BlockSource({ format: 'toy', storage, size, blockSize, tables, unpack, describe: () => ({}) });
}

/** What a layer with that backing file under it reads as. */
async function readLayers(source: Source, backing: Source | null, size: number): Promise<Buffer> {
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size; ) {
    for (const { offset, length, kind } of await source.map(at, size - at)) {
      const part = bytes.subarray(offset, offset + length);
      if (kind === 'data') await source.read(offset, part);
      else if (kind === 'unallocated' && backing !== null && offset < backing.size) {
        await backing.read(offset, part.subarray(0, Math.min(length, backing.size - offset)));
      }
      at = offset + length;
    }
  }
  return bytes;
}

async function backingOf(size: number): Promise<{ source: Source; bytes: Buffer }> {
  const bytes = pattern(size, 99);
  const options: ToyOptions = { size, blockSize: 1024, canZero: false, backing: null, fresh: true };
  const target = new BlockTarget(new ToyStore(memoryStorage('base'), options));
  await target.write(0, bytes);
  return { source: target.source, bytes };
}

interface Step {
  kind: 'write' | 'zero' | 'unmap' | 'compressed' | 'flush';
  at: number;
  length: number;
}

const steps = fc.array(
  fc.record<Step>({
    kind: fc.constantFrom('write', 'write', 'write', 'zero', 'unmap', 'compressed', 'flush'),
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    length: fc.integer({ min: 1, max: 30_000 }),
  }),
  { minLength: 1, maxLength: 25 },
);

async function takeStep(target: BlockTarget, model: DiskModel, { kind, at, length }: Step): Promise<void> {
  const offset = Math.min(model.size - 1, Math.floor(at * model.size));
  const end = Math.min(model.size, offset + length);
  if (kind === 'flush') return target.flush();
  if (kind === 'write') {
    const bytes = pattern(end - offset, length % 250);
    model.write(offset, bytes);
    return target.write(offset, bytes);
  }
  if (kind === 'compressed') {
    const { granularity, compressor } = target;
    const start = offset - (offset % granularity);
    const plain = pattern(Math.min(granularity, model.size - start), length % 250);
    const packed = await compressor?.compress(plain);
    if (!packed) return;
    model.write(start, plain);
    return target.writeCompressed(start, plain.length, packed);
  }
  model.zero(offset, end - offset);
  return target.zero(offset, end - offset, { unmap: kind === 'unmap' });
}

for (const canZero of [true, false]) {
  for (const backed of [true, false]) {
    for (const blockSize of [512, 4096]) {
      test(`blocks of ${blockSize}, ${canZero ? 'zero entries' : 'no zero entries'}, ${backed ? 'over a shorter backing file' : 'alone'}: any history equals the model`, async (t) => {
        const size = 100_000;
        const base = backed ? await backingOf(70_000) : null;
        const property = fc.asyncProperty(steps, fc.nat(24), async (history, reopenAt) => {
          const options: ToyOptions = { size, blockSize, canZero, backing: base?.source ?? null, fresh: true };
          const storage = memoryStorage('toy');
          const model = new DiskModel(size, base?.bytes);
          let store = new ToyStore(storage, options);
          let target = new BlockTarget(store);
          for (const [index, step] of history.entries()) {
            if (index === reopenAt) {
              await target.close();
              const { directory } = store;
              store = new ToyStore(storage, { ...options, fresh: false });
              directory.copy(store.directory);
              target = new BlockTarget(store);
            }
            await takeStep(target, model, step);
          }
          const seen = await readLayers(target.source, options.backing, size);
          if (!seen.equals(model.bytes)) throw new Error('the target’s own source differs from the model');
          await target.close();
          const closed = await readLayers(await reread(storage, options), options.backing, size);
          if (!closed.equals(model.bytes)) throw new Error('the closed image differs from the model');
        });
        await t.notThrowsAsync(
          fc.assert(property, { numRuns: Number(process.env.IMGPIPE_TEST_RUNS ?? 40), includeErrorInReport: true }),
        );
      });
    }
  }
}

test('writes at once that share blocks all arrive', async (t) => {
  const options: ToyOptions = { size: 200_000, blockSize: 4096, canZero: true, backing: null, fresh: true };
  const target = new BlockTarget(new ToyStore(memoryStorage('toy'), options));
  const random = new Random(3);
  const bytes = random.bytes(options.size);
  const writes = [];
  for (let at = 0; at < options.size; ) {
    const length = Math.min(options.size - at, 1 + random.below(3000));
    writes.push({ at, length });
    at += length;
  }
  await Promise.all(random.shuffled(writes).map(({ at, length }) => target.write(at, bytes.subarray(at, at + length))));
  t.true((await readLayers(target.source, null, options.size)).equals(bytes));
});

test('a target that was given up leaves an empty file, and takes no more writes', async (t) => {
  const storage = memoryStorage('toy');
  const options: ToyOptions = { size: 50_000, blockSize: 512, canZero: true, backing: null, fresh: true };
  const target = new BlockTarget(new ToyStore(storage, options));
  await target.write(0, pattern(1000, 1));
  await target.abort();
  t.is(storage.size, 0);
  await t.throwsAsync(target.write(0, pattern(10, 1)), { name: 'ImageError' });
});

test('without its backing file a block that would have to be filled up is refused, and a whole one is written', async (t) => {
  const options: ToyOptions = { size: 50_000, blockSize: 512, canZero: true, backing: null, fresh: false };
  const store = new ToyStore(memoryStorage('toy'), options);
  Object.defineProperty(store, 'hasBacking', { value: true });
  const target = new BlockTarget(store);
  await t.throwsAsync(target.write(10, pattern(20, 1)), { name: 'ImageError', message: /backing file is not open/ });
  await target.write(512, pattern(512, 2));
  const read = Buffer.alloc(1024);
  await target.source.read(0, read);
  t.true(read.equals(Buffer.concat([Buffer.alloc(512), pattern(512, 2)])));
});
