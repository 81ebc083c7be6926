import { ImageError } from '../core/errors.ts';
import type { Secrets } from '../crypto/secrets.ts';
import type { CacheMode, Storage } from '../storage/storage.ts';
import { joinLayers } from './chain.ts';
import { hasProtocol, type NodeSpec, parseFilename } from './filename.ts';
import { createGate, type ImageGate, type ImplicitPolicy, referenceSpec } from './gate.ts';
import { type Layer, LOAD_SNAPSHOT, openLayer, wrapped } from './layer.ts';
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
  /** Nobody may write to the disk while it is open, also where its format would bear it. */
  denyWriters?: boolean;
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

interface Context extends OpenImageOptions {
  gate: ImageGate;
}

/**
 * Opens an image with its backing chain. The error of whatever fails is an ImageError whose message
 * says all of qemu-img's `Could not open 'x': …`; nothing stays open then.
 */
export async function openImage(node: NodeSpec | string, options: OpenImageOptions): Promise<OpenedImage> {
  const filename = typeof node === 'string' ? node : node.filename;
  const context: Context = { ...options, gate: createGate({ implicit: options.implicit }) };
  const layers: Layer[] = [];
  try {
    await openLayers(typeof node === 'string' ? parseFilename(node) : node, context, layers);
    if (options.denyWriters) await denyWriters(layers);
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
  let inherited: Layer['inherited'] = { cache: context.cache ?? 'writeback', forceShare: context.forceShare === true };
  try {
    while (spec !== null) {
      const layer: Layer = await openLayer(spec, { ...context, ...inherited, isTop: layers.length === 0 });
      inherited = layer.inherited;
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

/** Disks that lie plain bear writers, unless it is asked otherwise. */
async function denyWriters(layers: readonly Layer[]): Promise<void> {
  for (const { driver, storage, inherited } of layers) {
    if (!driver.plain || inherited.forceShare) continue;
    await storage.lock?.({ uses: [], denies: ['write', 'resize'] });
  }
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
