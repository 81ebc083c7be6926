import { ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import type { Secrets } from '../crypto/secrets.ts';
import { openStorage } from '../storage/index.ts';
import type { CacheMode, Storage } from '../storage/storage.ts';
import { joinLayers } from './chain.ts';
import { openContainer, openPlace, type Place } from './container.ts';
import { hasProtocol, type NodeSpec, parseFilename } from './filename.ts';
import { createGate, type ImageGate, type ImplicitPolicy, referenceSpec } from './gate.ts';
import { takeNodeOptions } from './node-options.ts';
import { probe } from './probe.ts';
import { ProtocolSource } from './protocol.ts';
import type { SnapshotSelector, Source, SourceDriver } from './source.ts';

export interface OpenImageOptions {
  /** The formats to know, in the order of probing. */
  drivers: readonly SourceDriver[];
  /** Driver name for the top image; null or absent: as the node says, else probed. */
  format?: string | null;
  /** Open the top image's storage for writing too. */
  writable?: boolean;
  /** False: leave the backing file alone. Default true. */
  backing?: boolean;
  /** Default `writeback`. */
  cache?: CacheMode;
  /** Whether files that images refer to may be opened. Default `allow`. */
  implicit?: ImplicitPolicy;
  /** What `key-secret` options of the images name. */
  secrets?: Secrets;
  /** Open images that another process writes to. */
  forceShare?: boolean;
  /** The top image's storage, if it is open already (a spooled pipe); from then on it belongs to the OpenedImage. */
  storage?: Storage;
  /** Only `describe` will be asked (`info`): a missing data file or key is no error then. */
  metadataOnly?: boolean;
  /** With `metadataOnly`: the top image is going to be checked. What a check repairs is no reason to refuse it. */
  forCheck?: boolean;
  /**
   * Look inside archives: of an OVA appliance, the top image is its disk. Default false. Where a format is named, only
   * if the file itself can't be opened as that: `raw` takes the archive's own bytes.
   */
  containers?: boolean;
  /** With `storage`: the member of the archive that is meant. */
  member?: string | null;
  /** Read the disk as this internal snapshot of the top image has it. */
  snapshot?: SnapshotSelector;
}

/** One opened layer, and those below it. */
export interface OpenedImage {
  /** As the user wrote it; of a backing file: resolved against the image that names it. */
  readonly filename: string;
  /** What opens this layer again; its `driver` may be left to be probed. */
  readonly node: NodeSpec;
  readonly driver: SourceDriver;
  readonly storage: Storage;
  /** This layer alone. */
  readonly source: Source;
  readonly backing: OpenedImage | null;
  /** All layers joined; `source` itself where there is no backing file. */
  readonly chain: Source;
  /** Closes this layer and all below it. Idempotent. */
  close(): Promise<void>;
}

/** Each layer holds an open file; no chain that anyone could use is as deep. */
const MAX_CHAIN = 1000;

/** The operation of errors about the snapshot: qemu-img's text then has no `Could not open`. */
const LOAD_SNAPSHOT = 'load snapshot';

const traceOpen = tracePoint('image_open');

/** A layer that is open, before the layers below it are. */
interface Layer {
  filename: string;
  node: NodeSpec;
  driver: SourceDriver;
  storage: Storage;
  /** The image's own source: closing it closes its data file. */
  opened: Source;
  /** What is read: `opened`, or a snapshot of it. */
  source: Source;
}

interface Context extends OpenImageOptions {
  gate: ImageGate;
  cache: CacheMode;
}

/**
 * Opens an image with its backing chain. The error of whatever fails is an ImageError whose message
 * says all of qemu-img's `Could not open 'x': …`; nothing stays open then.
 */
export async function openImage(node: NodeSpec | string, options: OpenImageOptions): Promise<OpenedImage> {
  const filename = typeof node === 'string' ? node : node.filename;
  const cache = options.cache ?? 'writeback';
  const context: Context = { ...options, cache, gate: createGate({ implicit: options.implicit, cache }) };
  const layers: Layer[] = [];
  try {
    await openLayers(typeof node === 'string' ? parseFilename(node) : node, context, layers);
    return assemble(layers);
  } catch (error) {
    await closeLayers(layers).catch(() => {});
    if (layers.length === 0) await options.storage?.close().catch(() => {});
    throw couldNotOpen(error, filename);
  }
}

/** Walks down from the top image; what has been opened is in `layers`, also when it fails. */
async function openLayers(top: NodeSpec, context: Context, layers: Layer[]): Promise<void> {
  const seen = new Set<string>();
  let depth = 0;
  let spec: NodeSpec | null = context.format ? { ...top, driver: context.format } : top;
  try {
    while (spec !== null) {
      const layer: Layer = await openLayer(spec, context, layers.length === 0);
      const above = layers.at(-1);
      layers.push(layer);
      above?.opened.checkBacking?.(layer.opened);
      refuseLoop(seen, layer, spec);
      depth += 1;
      spec = context.backing === false ? null : await backingOf(layer, spec, context.gate);
      if (spec !== null && layers.length >= MAX_CHAIN) {
        throw new ImageError('unsupported', `The backing chain has more than ${MAX_CHAIN} images`);
      }
    }
  } catch (error) {
    throw wrapped(error, 'Could not open backing file: '.repeat(depth));
  }
}

async function openLayer(spec: NodeSpec, context: Context, isTop: boolean): Promise<Layer> {
  const writable = isTop && context.writable === true;
  const given = takeNodeOptions(spec.options, { cache: context.cache, writable });
  const isProtocol = spec.driver !== null && spec.driver === spec.file.driver;
  if (isProtocol && context.drivers.some(({ name }) => name === spec.driver)) {
    throw new ImageError('invalid', 'A block device must be specified for "file"');
  }
  const chosen = spec.driver === null || isProtocol ? null : driverNamed(spec.driver, context.drivers);
  const mayEnter = isTop && !writable && !isProtocol && context.containers === true;
  const place = await placeOf(spec, context, { isTop, mayEnter, writable, cache: given.cache });
  let { storage } = place;
  const enter = async (): Promise<boolean> => {
    const inside = mayEnter ? await openContainer(place, context.drivers) : null;
    storage = inside ?? storage;
    return inside !== null;
  };
  try {
    const entered = (chosen === null || place.member !== null) && (await enter());
    const driver = chosen ?? (await driverFor(storage, isProtocol, context.drivers));
    const { gate, secrets, metadataOnly } = context;
    const forCheck = isTop && context.forCheck;
    const open = () =>
      driver.openSource({
        storage,
        options: given.options,
        writable,
        cache: given.cache,
        gate,
        secrets,
        metadataOnly,
        forCheck,
      });
    const plain = await open().catch(async (error) => {
      if (chosen === null || entered || !(await enter())) throw error;
      return open();
    });
    const opened = isProtocol ? new ProtocolSource(plain, spec.file.driver) : plain;
    if (traceOpen.enabled) traceOpen.emit({ file: storage.name, format: opened.format, size: opened.size, writable });
    const source = isTop && context.snapshot !== undefined ? await snapshotOf(opened, context.snapshot) : opened;
    return { filename: spec.filename, node: spec, driver, storage, opened, source };
  } catch (error) {
    await storage.close().catch(() => {});
    throw error;
  }
}

interface PlaceFacts {
  isTop: boolean;
  mayEnter: boolean;
  writable: boolean;
  cache: CacheMode;
}

async function placeOf({ file }: NodeSpec, context: Context, facts: PlaceFacts): Promise<Place> {
  const { isTop, mayEnter, writable, cache } = facts;
  const { storage, member = null } = context;
  if (isTop && storage !== undefined) return { storage, member };
  if (mayEnter) return openPlace(file, cache);
  return { storage: await openStorage(file, { writable, cache }), member: null };
}

async function driverFor(
  storage: Storage,
  isProtocol: boolean,
  drivers: readonly SourceDriver[],
): Promise<SourceDriver> {
  return isProtocol ? driverNamed('raw', drivers) : probe(storage, drivers);
}

async function snapshotOf(image: Source, selector: SnapshotSelector): Promise<Source> {
  try {
    if (image.openSnapshot === undefined) {
      const can = 'support temporarily loading internal snapshots';
      throw new ImageError('unsupported', `Block format '${image.format}' used by device '' does not ${can}`);
    }
    return await image.openSnapshot(selector);
  } catch (error) {
    await image.close().catch(() => {});
    throw wrapped(error, 'Failed to load snapshot: ', image.name, LOAD_SNAPSHOT);
  }
}

function driverNamed(name: string, drivers: readonly SourceDriver[]): SourceDriver {
  const driver = drivers.find((each) => each.name === name);
  if (driver === undefined) throw new ImageError('invalid', `Unknown driver '${name}'`);
  return driver;
}

/** The node below a layer, or null. */
async function backingOf(layer: Layer, spec: NodeSpec, gate: ImageGate): Promise<NodeSpec | null> {
  if (spec.backing === null) return null;
  const inHeader = layer.source.backing;
  if (typeof spec.backing === 'object') {
    return { ...spec.backing, driver: spec.backing.driver ?? inHeader?.format ?? null };
  }
  if (typeof spec.backing === 'string') return parseFilename(spec.backing);
  if (inHeader === null) return null;
  await gate.admit(inHeader.filename, layer.storage);
  return backingNode(inHeader.filename, inHeader.format, layer.storage);
}

/** The node that a header's backing reference means; the header's format goes before a `json:` one's. */
export function backingNode(reference: string, format: string | null, from: Storage): NodeSpec {
  if (hasProtocol(reference)) {
    const node = parseFilename(reference);
    return { ...node, driver: format ?? node.driver };
  }
  const file = referenceSpec(reference, from);
  return { driver: format, file, options: {}, backing: undefined, filename: String(file.filename) };
}

/** The same file as the same format twice in a chain would never end. */
function refuseLoop(seen: Set<string>, layer: Layer, spec: NodeSpec): void {
  const { filename, ...rest } = spec.file;
  const place = layer.storage.path ?? filename ?? layer.filename;
  const key = JSON.stringify([place, layer.opened.format, rest, spec.options]);
  if (seen.has(key)) {
    throw new ImageError('corrupt', `Backing file '${layer.filename}' creates an infinite loop`, {
      file: layer.filename,
      operation: 'open',
    });
  }
  seen.add(key);
}

function assemble(layers: readonly Layer[]): OpenedImage {
  let below: OpenedImage | null = null;
  for (let depth = layers.length - 1; depth >= 0; depth -= 1) {
    const chain = joinLayers(layers.slice(depth).map(({ source }) => source));
    below = openedImage(layers[depth], below, chain);
  }
  return below as OpenedImage;
}

function openedImage(layer: Layer, backing: OpenedImage | null, chain: Source): OpenedImage {
  const { filename, node, driver, storage, source } = layer;
  let closing: Promise<void> | null = null;
  const close = async (): Promise<void> => {
    closing ??= Promise.all([closeLayers([layer]), backing?.close()]).then(() => {});
    return closing;
  };
  return { filename, node, driver, storage, source, backing, chain, close };
}

/** Closes all, also when some fail; the first failure is thrown at the end. */
async function closeLayers(layers: readonly Layer[]): Promise<void> {
  const failures: unknown[] = [];
  for (const { opened, source, storage } of layers) {
    if (source !== opened) await source.close().catch((error) => failures.push(error));
    await opened.close().catch((error) => failures.push(error));
    await storage.close().catch((error) => failures.push(error));
  }
  if (failures.length > 0) throw failures[0];
}

function couldNotOpen(error: unknown, filename: string): ImageError {
  if (error instanceof ImageError && error.operation === LOAD_SNAPSHOT) return error;
  return wrapped(error, `Could not open '${filename}': `, filename);
}

function wrapped(error: unknown, prefix: string, file?: string, operation?: string): ImageError {
  // What is no ImageError is a defect of this program, not of the image: it must not be dressed up as one.
  if (!(error instanceof ImageError)) throw error;
  if (prefix === '') return error;
  const { kind, message, format, offset, code } = error;
  return new ImageError(kind, prefix + message, {
    file: error.file ?? file,
    format,
    operation: operation ?? error.operation ?? 'open',
    offset,
    code,
    cause: error,
  });
}
