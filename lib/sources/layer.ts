import { ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import type { Secrets } from '../crypto/secrets.ts';
import { openStorage } from '../storage/index.ts';
import type { CacheMode, Storage } from '../storage/storage.ts';
import { openContainer, openPlace, type Place } from './container.ts';
import type { NodeSpec } from './filename.ts';
import { createGate, type ImplicitPolicy } from './gate.ts';
import { type NodeOptions, takeNodeOptions } from './node-options.ts';
import { probe } from './probe.ts';
import { ProtocolSource } from './protocol.ts';
import { locksFor, roleOf, type Sharing } from './sharing.ts';
import type { SnapshotSelector, Source, SourceDriver, SourceRequest } from './source.ts';

/** What a node's own options change for all layers below it, too. */
export interface Inherited {
  cache: CacheMode;
  forceShare: boolean;
}

/** What holds for the opening of one layer; `isTop` and what follows it for the top one only. */
export interface LayerContext extends Inherited {
  drivers: readonly SourceDriver[];
  implicit?: ImplicitPolicy;
  secrets?: Secrets;
  metadataOnly?: boolean;
  denyWriters?: boolean;
  isTop: boolean;
  writable?: boolean;
  forCheck?: boolean;
  storage?: Storage;
  containers?: boolean;
  member?: string | null;
  snapshot?: SnapshotSelector;
}

/** A layer that is open, before the layers below it are. */
export interface Layer {
  filename: string;
  node: NodeSpec;
  driver: SourceDriver;
  storage: Storage;
  /** The image's own source: closing it closes its data file. */
  opened: Source;
  /** What is read: `opened`, or a snapshot of it. */
  source: Source;
  inherited: Inherited;
}

/** The operation of errors about the snapshot: qemu-img's text then has no `Could not open`. */
export const LOAD_SNAPSHOT = 'load snapshot';

const traceOpen = tracePoint('image_open');

/** Opens the file of a node, locks it as far as its format demands, and opens the image in it. */
export async function openLayer(spec: NodeSpec, context: LayerContext): Promise<Layer> {
  const writable = context.isTop && context.writable === true;
  const given = nodeOptions(spec, context, writable);
  const { cache, forceShare } = given;
  const sharing = sharingOf(context, forceShare);
  const isProtocol = spec.driver !== null && spec.driver === spec.file.driver;
  if (isProtocol && context.drivers.some(({ name }) => name === spec.driver)) {
    throw new ImageError('invalid', 'A block device must be specified for "file"');
  }
  const chosen = spec.driver === null || isProtocol ? null : driverNamed(spec.driver, context.drivers);
  const mayEnter = context.isTop && !writable && !isProtocol && context.containers === true;
  const place = await placeOf(spec, context, { mayEnter, writable, cache });
  let { storage } = place;
  const enter = async (): Promise<boolean> => {
    const inside = mayEnter ? await openContainer(place, context.drivers) : null;
    storage = inside ?? storage;
    return inside !== null;
  };
  try {
    const entered = (chosen === null || place.member !== null) && (await enter());
    const driver = chosen ?? (await driverFor(storage, isProtocol, context.drivers));
    await storage.lock?.(locksFor(roleOf(driver), writable, sharing));
    const open = () => driver.openSource({ ...requestFor(context, { given, writable, sharing }), storage });
    const plain = await open().catch(async (error) => {
      if (chosen === null || entered || !(await enter())) throw error;
      return open();
    });
    const opened = isProtocol ? new ProtocolSource(plain, spec.file.driver) : plain;
    if (traceOpen.enabled) traceOpen.emit({ file: storage.name, format: opened.format, size: opened.size, writable });
    const snapshot = context.isTop ? context.snapshot : undefined;
    const source = snapshot === undefined ? opened : await snapshotOf(opened, snapshot);
    const inherited = { cache, forceShare };
    return { filename: spec.filename, node: spec, driver, storage, opened, source, inherited };
  } catch (error) {
    await storage.close().catch(() => {});
    throw error;
  }
}

function nodeOptions({ options }: NodeSpec, context: LayerContext, writable: boolean): NodeOptions {
  const given = takeNodeOptions(options, { cache: context.cache, writable });
  const forceShare = given.forceShare || context.forceShare;
  if (writable && forceShare) {
    throw new ImageError('invalid', 'force-share=on can only be used with read-only images');
  }
  return { ...given, forceShare };
}

/** A check reads more than the header. */
function sharingOf({ metadataOnly, forCheck, denyWriters, isTop }: LayerContext, forceShare: boolean): Sharing {
  return { metadataOnly: metadataOnly === true && !(isTop && forCheck), forceShare, denyWriters };
}

interface PlaceFacts {
  mayEnter: boolean;
  writable: boolean;
  cache: CacheMode;
}

async function placeOf({ file }: NodeSpec, context: LayerContext, facts: PlaceFacts): Promise<Place> {
  const { mayEnter, writable, cache } = facts;
  const { isTop, storage, member = null } = context;
  if (isTop && storage !== undefined) return { storage, member };
  if (mayEnter) return openPlace(file, cache);
  return { storage: await openStorage(file, { writable, cache }), member: null };
}

interface Facts {
  given: NodeOptions;
  writable: boolean;
  sharing: Sharing;
}

function requestFor(context: LayerContext, { given, writable, sharing }: Facts): Omit<SourceRequest, 'storage'> {
  const { implicit, secrets, metadataOnly, isTop, forCheck } = context;
  const { options, cache } = given;
  return {
    ...{ options, writable, cache, secrets, sharing, metadataOnly },
    gate: createGate({ implicit, cache, sharing }),
    forCheck: isTop && forCheck,
  };
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

/** The error with a prefix, of operation `open` where it has none. */
export function wrapped(error: unknown, prefix: string, file?: string, operation?: string): ImageError {
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
