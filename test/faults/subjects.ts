import { createImage } from '../../lib/formats/create.ts';
import type { Driver } from '../../lib/formats/driver.ts';
import { drivers } from '../../lib/formats/index.ts';
import type { Target } from '../../lib/sinks/target.ts';
import { parseFilename } from '../../lib/sources/filename.ts';
import { createGate } from '../../lib/sources/gate.ts';
import { type OpenedImage, openImage } from '../../lib/sources/open.ts';
import { type MemoryStorage, memoryStorage } from '../../lib/storage/memory.ts';
import type { CacheMode, Storage } from '../../lib/storage/storage.ts';
import { factsOf, KEY, SECRETS } from '../conformance/facts.ts';
import { DiskModel, pattern } from '../support/model.ts';

/** A format with create options, to be made and written to on storages that fail. */
export interface Recipe {
  driver: Driver;
  options: Readonly<Record<string, string>>;
  title: string;
  /** Guest bytes. */
  size: number;
  /** Bytes that a failure leaves old or new as one: what is encrypted together is nothing of either when it is cut. */
  atom: number;
  /** How far apart the writes are, times the usual: blocks of a MiB need more room to be several. */
  spread: number;
}

/** Small clusters, so that a small disk has many tables. */
const OPTION_SETS: Readonly<Record<string, readonly Readonly<Record<string, string>>[]>> = {
  qcow2: [
    { cluster_size: '4096' },
    { cluster_size: '512', refcount_bits: '1' },
    { cluster_size: '16384', extended_l2: 'on' },
    { cluster_size: '4096', 'encrypt.format': 'luks', 'encrypt.iter-time': '1', ...KEY },
  ],
  qcow: [{}, { 'encrypt.format': 'aes', ...KEY }],
  qed: [{ cluster_size: '4096', table_size: '2' }],
  parallels: [{ cluster_size: '4096' }],
  vdi: [{}, { static: 'on' }],
  vhdx: [{ block_size: '1048576' }, { block_size: '1048576', subformat: 'fixed' }],
  vmdk: [{}, { zeroed_grain: 'on' }, { subformat: 'streamOptimized' }],
  // Without it, the size is rounded up to what cylinders, heads and sectors can say.
  vpc: [{ force_size: 'on' }, { force_size: 'on', subformat: 'fixed' }],
  luks: [{ 'iter-time': '10' }],
};

const SPREADS: Readonly<Record<string, number>> = { vdi: 16, vhdx: 16, vpc: 32 };
const SIZE = 300_032;
const SECTOR = 512;

export function recipes(): Recipe[] {
  const able = drivers().filter(({ create }) => create !== undefined);
  return able.flatMap((driver) =>
    (OPTION_SETS[driver.name] ?? [{}]).map((options) => {
      const pairs = Object.entries(options).map(([key, value]) => `${key}=${value}`);
      const spread = SPREADS[driver.name] ?? 1;
      const atom = factsOf(driver).noisy || 'encrypt.format' in options ? SECTOR : 1;
      return { driver, options, title: [driver.name, ...pairs].join(' '), size: SIZE * spread, atom, spread };
    }),
  );
}

/**
 * Makes an image on the storage; what was opened is closed again where that fails. What would read as noise is made
 * zeros.
 */
export async function createOn(
  storage: Storage,
  { driver, options: given, size }: Recipe,
  cache: CacheMode = 'writeback',
): Promise<Target> {
  const { needs, noisy = false } = factsOf(driver);
  const options = { ...needs?.create, ...given };
  const request = { filename: storage.name, format: driver.name, size, options, storage, cache, secrets: SECRETS };
  const target = await createImage(request);
  try {
    if (noisy) await target.zero(0, target.size);
    return target;
  } catch (error) {
    await target.abort().catch(() => {});
    throw error;
  }
}

/** Opens what is in a memory storage, as the format of that driver. */
export function openedIn(storage: Storage, driver: Driver): Promise<OpenedImage> {
  const node = { ...parseFilename(storage.name), options: { ...factsOf(driver).needs?.open } };
  return openImage(node, { drivers: drivers(), format: driver.name, storage, secrets: SECRETS });
}

/** Opens what is in the storage for writing. */
export async function openOn(storage: Storage, { driver }: Recipe): Promise<Target> {
  if (driver.openTarget === undefined) throw new Error(`${driver.name} has no openTarget`);
  return driver.openTarget({
    storage,
    options: { ...factsOf(driver).needs?.open },
    secrets: SECRETS,
    writable: true,
    cache: 'writeback',
    gate: createGate(),
    backing: null,
  });
}

/** The writes that every test makes, and what the disk reads as after them. */
export async function writeSome(recipe: Recipe, target: Target, model: DiskModel, seed = 1): Promise<void> {
  const { size, spread } = recipe;
  for (const [offset, length] of [
    [0, 20_000],
    [50_000 * spread, 3000],
    [50_000 * spread + 1000, 700],
    [size - 9000, 9000],
    [120_000 * spread, 60_000],
  ]) {
    const buffer = pattern(length, seed + length);
    await target.write(offset, buffer);
    model.write(offset, buffer);
  }
  await target.zero(10_000, 30_000, { unmap: true });
  model.zero(10_000, 30_000);
  await target.write(12_345, pattern(5000, seed));
  model.write(12_345, pattern(5000, seed));
}

/** Whether `writeSome` writes there more than once: a failure may leave what stood there in between. */
export function isWrittenTwice({ spread }: Recipe, at: number): boolean {
  const again = at - 50_000 * spread;
  return (at >= 10_000 && at < 40_000) || (again >= 1000 && again < 1700);
}

/** A complete image in memory, with the disk that it holds. */
export async function completeImage(recipe: Recipe): Promise<{ bytes: Buffer; model: DiskModel }> {
  const storage = memoryStorage('complete');
  const model = new DiskModel(recipe.size);
  const target = await createOn(storage, recipe);
  await writeSome(recipe, target, model, 100);
  await target.close();
  return { bytes: storage.bytes(), model };
}

/**
 * Whether the format takes the bytes for an image of its own: by their head, or (a footer tells) by opening them; raw
 * takes everything, as long as it is whole.
 */
export async function looksComplete(storage: MemoryStorage, recipe: Recipe): Promise<boolean> {
  const { driver, size } = recipe;
  if (driver.name === 'raw') return storage.size >= size;
  const bytes = storage.bytes();
  if (driver.probe(bytes.subarray(0, 4096), storage.name) > 0) return true;
  const again = memoryStorage('again', bytes);
  const image = await openedIn(again, driver).catch(() => null);
  await image?.close();
  return image !== null;
}

/** Everything that the image in the storage reads as. */
export async function readDisk(bytes: Buffer, { driver }: Recipe): Promise<Buffer> {
  const storage = memoryStorage('again', bytes);
  const image = await openedIn(storage, driver);
  try {
    const disk = Buffer.alloc(image.chain.size);
    await image.chain.read(0, disk);
    return disk;
  } finally {
    await image.close();
  }
}

/** The first byte that is in none of the `allowed` disks, or -1. `skip`: bytes that may be anything. */
export function firstForeign(
  found: Buffer,
  allowed: readonly Buffer[],
  skip: (at: number) => boolean = () => false,
): number {
  for (let start = 0; start < found.length; start += 4096) {
    const piece = found.subarray(start, start + 4096);
    if (allowed.some((disk) => disk.subarray(start, start + 4096).equals(piece))) continue;
    const at = piece.findIndex(
      (byte, index) => !skip(start + index) && allowed.every((disk) => disk[start + index] !== byte),
    );
    if (at >= 0) return start + at;
  }
  return -1;
}
