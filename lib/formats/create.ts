import { isAbsolute } from 'node:path';
import { ImageError } from '../core/errors.ts';
import { type AnyOptionValues, type OptionSchema, parseOptions } from '../core/options.ts';
import type { Secrets } from '../crypto/secrets.ts';
import type { Target } from '../sinks/target.ts';
import { hasProtocol, type NodeSpec, parseFilename } from '../sources/filename.ts';
import { createGate, type ImplicitPolicy } from '../sources/gate.ts';
import { type OpenedImage, openImage } from '../sources/open.ts';
import { locksForMaking, roleOf } from '../sources/sharing.ts';
import { fileCreateOptions, openStorage, protocolNamed } from '../storage/index.ts';
import type { CacheMode, Storage } from '../storage/storage.ts';
import { alsoClose } from './close.ts';
import type { Driver } from './driver.ts';
import { formattingLine } from './formatting.ts';
import { drivers as allDrivers } from './index.ts';

export interface CreateImageOptions {
  /** Where to make it: a filename, or a node. */
  filename?: string;
  node?: NodeSpec;
  /** Driver name. */
  format: string;
  /** Guest bytes; null takes the `size` option, else the backing file's size. */
  size?: number | null;
  /** `-o` pairs, as text. */
  options?: Readonly<Record<string, string>>;
  /** `-b`, `-F` and `-u`; goes before `backing_file` and `backing_fmt` of the options. */
  backing?: { filename: string; format?: string | null; unsafe?: boolean };
  cache?: CacheMode;
  /** The backing file may be written to by another process meanwhile: nothing is read of it but its size, and its key need not be known. */
  shareBacking?: boolean;
  drivers?: readonly Driver[];
  /** Whether files that images refer to may be opened. */
  implicit?: ImplicitPolicy;
  /** What `key-secret` options of the images name. */
  secrets?: Secrets;
  /** Where to make it, if it is open already; then `filename` only names it. */
  storage?: Storage;
  /** Told the line `Formatting …` when all is known and nothing has been touched. */
  onFormatting?: (line: string) => void;
}

interface Backing {
  filename: string;
  format: string | null;
  opened: OpenedImage | null;
}

/**
 * Makes a new image and returns it open for writing; `close` completes it. An ImageError in qemu-img's
 * words where that can't be done; options that make no sense are refused before anything is touched.
 */
export async function createImage(request: CreateImageOptions): Promise<Target> {
  const drivers = request.drivers ?? allDrivers();
  const driver = creatingDriver(request.format, drivers);
  const node = placeOf(request);
  const values = parseOptions<OptionSchema>(createOptionsFor(driver, node), request.options ?? {}) as AnyOptionValues;
  const backing = await openBacking(request, { node, driver, values, drivers });
  try {
    const size = resolveSize(request, values, backing);
    request.onFormatting?.(
      formattingLine({
        filename: request.filename ?? node.filename,
        driver,
        given: request.options ?? {},
        values: { ...values, size, ...backingValues(values, backing) },
      }),
    );
    const target = await create(request, { node, driver, values, backing, size });
    return backing?.opened ? alsoClose(target, backing.opened) : target;
  } catch (error) {
    await backing?.opened?.close().catch(() => {});
    throw error;
  }
}

/** Where the new image goes. A place that cannot be is told before anything else. */
function placeOf({ node, filename = '', storage }: CreateImageOptions): NodeSpec {
  if (node === undefined && filename.startsWith('json:')) {
    // A description is of something that exists.
    throw new ImageError('invalid', `Unknown protocol 'json'`, { file: filename });
  }
  const place = node ?? parseFilename(filename);
  if (storage === undefined) protocolNamed(place.file);
  return place;
}

function backingValues(values: AnyOptionValues, backing: Backing | null): AnyOptionValues {
  if (backing === null) return {};
  return { backing_file: backing.filename, backing_fmt: backing.format ?? values.backing_fmt };
}

interface Plan {
  node: NodeSpec;
  driver: Driver;
  values: AnyOptionValues;
}

async function create(
  request: CreateImageOptions,
  { node, driver, values, backing, size }: Plan & { backing: Backing | null; size: number },
): Promise<Target> {
  if (backing === null && values.backing_fmt !== undefined) {
    throw new ImageError('invalid', 'Backing format cannot be used without backing file');
  }
  const cache = request.cache ?? 'writeback';
  const { size: _size, backing_file: _file, backing_fmt: _format, ...options } = values;
  const storage = request.storage ?? (await openStorage(node.file, { writable: true, create: true, cache }));
  await lockNew(storage, driver);
  try {
    const made = await driver.create?.({
      storage,
      size,
      options,
      backing: backing && {
        filename: backing.filename,
        format: backing.format,
        source: backing.opened?.chain ?? null,
      },
      cache,
      gate: createGate({ implicit: request.implicit, cache }),
      secrets: request.secrets,
    });
    return made as Target;
  } catch (error) {
    await storage.close({ discard: true }).catch(() => {});
    throw error;
  }
}

/** Before anything of a file that is there is touched. */
async function lockNew(storage: Storage, driver: Driver): Promise<void> {
  try {
    await storage.lock?.(locksForMaking(roleOf(driver)));
  } catch (error) {
    // Whoever has it may have found it when it was just made: it is not removed.
    await storage.close().catch(() => {});
    throw error;
  }
}

function creatingDriver(name: string, drivers: readonly Driver[]): Driver {
  const driver = drivers.find((each) => each.name === name);
  if (driver === undefined) throw new ImageError('invalid', `Unknown file format '${name}'`);
  if (driver.create === undefined) {
    throw new ImageError('unsupported', `Format driver '${name}' does not support image creation`, { format: name });
  }
  return driver;
}

/** The keys of `-o` for a new image there: the format's, and those of the place where it will lie. */
export function createOptionsFor(driver: Driver, node: NodeSpec): OptionSchema {
  return { ...(node.file.driver === 'file' ? fileCreateOptions : {}), ...driver.createOptions };
}

async function openBacking(
  request: CreateImageOptions,
  { node, driver, values, drivers }: Plan & { drivers: readonly Driver[] },
): Promise<Backing | null> {
  const filename = request.backing?.filename ?? textOf(values.backing_file);
  const format = request.backing?.format ?? textOf(values.backing_fmt) ?? null;
  if (filename === '') throw new ImageError('invalid', 'Expected backing file name, got empty string');
  if (filename === undefined) {
    if (values.backing_fmt !== undefined) refuseWithout(driver, 'Backing format');
    return null;
  }
  refuseWithout(driver, 'Backing file');
  if (filename === (request.filename ?? node.filename)) {
    throw new ImageError('invalid', 'Error: Trying to create an image with the same filename as the backing file');
  }
  if (request.backing?.unsafe) {
    if (format === null) throw new ImageError('invalid', 'Backing file specified without backing format');
    return { filename, format, opened: null };
  }
  const opened = await openBackingImage(request, { filename, format, node, drivers });
  if (format === null) {
    await opened.close();
    throw new ImageError(
      'invalid',
      `Backing file specified without backing format\nDetected format of ${opened.driver.name}.`,
    );
  }
  return { filename, format, opened };
}

function textOf(value: unknown): string | undefined {
  return value === undefined ? undefined : String(value);
}

function refuseWithout(driver: Driver, what: string): void {
  if (driver.supportsBacking) return;
  throw new ImageError('unsupported', `${what} not supported for file format '${driver.name}'`);
}

async function openBackingImage(
  request: CreateImageOptions,
  {
    filename,
    format,
    node,
    drivers,
  }: { filename: string; format: string | null; node: NodeSpec; drivers: readonly Driver[] },
): Promise<OpenedImage> {
  try {
    return await openImage(backingNodeOf(filename, format, node), {
      drivers,
      cache: request.cache,
      implicit: request.implicit,
      secrets: request.secrets,
      forceShare: request.shareBacking,
      metadataOnly: request.shareBacking,
    });
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    // The name of the backing file is in the innermost message where it matters.
    const { message } = error.cause instanceof ImageError ? error.cause : error;
    throw new ImageError(error.kind, `${message}\nCould not open backing image.`, {
      file: filename,
      code: error.code,
      cause: error,
    });
  }
}

/** The node that the name means in the new image, which is not there yet: relative to its directory. */
function backingNodeOf(reference: string, format: string | null, { file }: NodeSpec): NodeSpec {
  if (hasProtocol(reference)) {
    const node = parseFilename(reference);
    return { ...node, driver: format ?? node.driver };
  }
  const own = String(file.filename ?? '');
  const directory = own.slice(0, own.lastIndexOf('/') + 1);
  const filename = isAbsolute(reference) ? reference : directory + reference;
  return { driver: format, file: { driver: 'file', filename }, options: {}, backing: undefined, filename };
}

function resolveSize(request: CreateImageOptions, values: AnyOptionValues, backing: Backing | null): number {
  const given = request.size ?? null;
  if (given !== null && values.size !== undefined) {
    throw new ImageError('invalid', 'The image size must be specified only once');
  }
  const size = given ?? values.size ?? backing?.opened?.chain.size;
  if (size === undefined) throw new ImageError('invalid', 'Image creation needs a size parameter');
  return Number(size);
}
