import { access } from 'node:fs/promises';
import { ImageError } from '../core/errors.ts';
import { abortError } from '../core/streams.ts';
import type { Driver } from '../formats/driver.ts';
import { drivers as allDrivers } from '../formats/index.ts';
import { forwardContainer } from '../sources/container-forward.ts';
import { type NodeSpec, parseFilename, parseImageOpts } from '../sources/filename.ts';
import { ForwardImpossible } from '../sources/forward.ts';
import { createGate } from '../sources/gate.ts';
import { type OpenedImage, type OpenImageOptions, openImage } from '../sources/open.ts';
import { PROBE_SIZE, surest } from '../sources/probe.ts';
import type { ForwardSource, SnapshotSelector } from '../sources/source.ts';
import { PipeInput } from '../storage/pipe-input.ts';
import { directoryOf } from '../storage/spool.ts';
import { spoolInput } from '../storage/spool-input.ts';
import { STDIO_NAME, standardInput } from '../storage/stdio.ts';
import type { CacheMode } from '../storage/storage.ts';
import type { ImageReference, VerbOptions } from './reference.ts';

export interface OpenInputOptions
  extends Pick<VerbOptions, 'drivers' | 'implicit' | 'secrets' | 'forceShare' | 'signal'> {
  cache?: CacheMode;
  /** Nobody may write to the disk while it is read, also where its format would bear it; not with `forceShare`. */
  denyWriters?: boolean;
  /** False: leave the backing file alone. */
  backing?: boolean;
  /** The disk as an internal snapshot has it; a pipe is then spooled. */
  snapshot?: SnapshotSelector;
  /**
   * The caller can take a ForwardSource. Default false: what comes through a pipe is then spooled to a
   * temporary file, and the result is always an OpenedImage.
   */
  forward?: boolean;
  /** The size must be known: an input that comes without telling it is spooled. */
  sized?: boolean;
  /** The output's filename (or `-`): a pipe that must be spooled is spooled beside it. */
  outputFilename?: string | null;
}

/** An input that can only be read once, from its first byte to its last. */
export interface ForwardInput {
  forward: ForwardSource;
}

/** Whether the input came as a stream: `'forward' in input`, with a name. */
export function isForward(input: OpenedImage | ForwardInput): input is ForwardInput {
  return 'forward' in input;
}

/** Standard input, and of the archive that comes there this member: `-#disk2.vmdk`. */
const MEMBER_PREFIX = `${STDIO_NAME}#`;

/** `-` as a whole filename means standard input or output. */
export function isStandardStream(reference: ImageReference): boolean {
  return !('file' in reference) && reference.filename === STDIO_NAME && reference.imageOpts !== true;
}

/**
 * Opens what a verb reads from. `-` is standard input: an ordinary seekable image where a file was
 * redirected into it; from a pipe a ForwardSource if `forward` allows it and the image's layout does,
 * else an image spooled to a temporary file without a name, gone when the process is. What is packed by gzip, bzip2,
 * xz or zstd is unpacked, also where the format is given: `-f raw` names what is inside. Of an OVA appliance the disk is
 * taken; `x.ova#disk2.vmdk` names one of several, as `-#disk2.vmdk` does on standard input. With `--image-opts`,
 * `driver=raw,file.filename=-` takes the bytes of standard input as they are.
 * Throws an ImageError.
 */
export function openInput(
  reference: ImageReference,
  options: OpenInputOptions & { forward: true },
): Promise<OpenedImage | ForwardInput>;
export function openInput(
  reference: ImageReference,
  options?: OpenInputOptions & { forward?: false },
): Promise<OpenedImage>;
export async function openInput(
  reference: ImageReference,
  options: OpenInputOptions = {},
): Promise<OpenedImage | ForwardInput> {
  const { drivers = allDrivers(), implicit, secrets, cache, backing, snapshot, forceShare, denyWriters } = options;
  const common = { drivers, implicit, secrets, cache, backing, snapshot, forceShare, denyWriters, containers: true };
  const format = 'file' in reference ? null : (reference.format ?? null);
  if (isStandardStream(reference)) {
    return openStandardInput({ ...parseFilename(STDIO_NAME), driver: format }, { ...options, ...common, unpack: true });
  }
  if (await namesMemberOfStandardInput(reference)) {
    const node = { ...parseFilename(STDIO_NAME), driver: format };
    const member = reference.filename.slice(MEMBER_PREFIX.length);
    return openStandardInput(node, { ...options, ...common, unpack: true, member });
  }
  if (!('file' in reference) && !reference.imageOpts) return openImage(reference.filename, { ...common, format });
  const node = 'file' in reference ? reference : parseImageOpts(reference.filename);
  if (!isStandardInput(node)) return openImage(node, common);
  return openStandardInput(node, { ...options, ...common, unpack: node.driver !== 'raw' });
}

/** A node whose file is `-`. */
function isStandardInput({ file }: NodeSpec): boolean {
  return file.driver === 'file' && file.filename === STDIO_NAME;
}

/** A file of that name goes before that meaning. */
async function namesMemberOfStandardInput(reference: ImageReference): Promise<boolean> {
  if ('file' in reference || reference.imageOpts === true || !reference.filename.startsWith(MEMBER_PREFIX))
    return false;
  return access(reference.filename).then(
    () => false,
    () => true,
  );
}

interface StandardInputRequest extends OpenInputOptions {
  drivers: readonly Driver[];
  unpack: boolean;
  member?: string;
}

async function openStandardInput(node: NodeSpec, request: StandardInputRequest): Promise<OpenedImage | ForwardInput> {
  const { signal } = request;
  const storage = await standardInput(request);
  try {
    if (!(storage instanceof PipeInput)) return await openImage(node, { ...imageOptions(request), storage });
    return await openPipe(node, storage, request);
  } catch (error) {
    await storage.close().catch(() => {});
    throw signal?.aborted && error instanceof ImageError ? abortError(signal) : error;
  }
}

async function openPipe(node: NodeSpec, input: PipeInput, request: StandardInputRequest) {
  const { signal } = request;
  const directory = directoryOf(request.outputFilename);
  const disk = await diskIn(node, input, request);
  if (disk === null) {
    const storage = await spoolInput(input, directory, signal);
    return openImage(node, { ...imageOptions(request), storage });
  }
  const driver = await driverOf(node, disk, request.drivers);
  const forward = await openForward(node, driver, disk, request);
  if (forward !== null) return { forward };
  const storage = await spoolInput(disk, directory, signal);
  return openImage({ ...node, driver: driver.name }, { ...imageOptions(request), storage, containers: false });
}

/** The image that comes: the input itself, or the disk in it; null for an archive of which all must be seen. */
async function diskIn(node: NodeSpec, input: PipeInput, request: StandardInputRequest): Promise<PipeInput | null> {
  const { member = null, drivers } = request;
  const named = drivers.find(({ name }) => name === node.driver);
  const isItself = named !== undefined && named.probe(await input.peek(PROBE_SIZE), STDIO_NAME) > 0;
  if (isItself && member === null) return input;
  try {
    return (await forwardContainer(input, member)) ?? input;
  } catch (error) {
    if (!(error instanceof ForwardImpossible)) throw couldNotOpen(error);
    // Where a format is named, an archive that does not say what it holds may well be the image itself.
    return node.driver === null ? null : input;
  }
}

function imageOptions(request: StandardInputRequest): OpenImageOptions {
  const { drivers, implicit, secrets, cache, backing, snapshot, forceShare, denyWriters, member } = request;
  return { drivers, implicit, secrets, cache, backing, snapshot, forceShare, denyWriters, containers: true, member };
}

function couldNotOpen(error: unknown): unknown {
  if (!(error instanceof ImageError) || error.kind === 'aborted') return error;
  const { kind, message, operation = 'open', offset, code } = error;
  const text = `Could not open '${STDIO_NAME}': ${message}`;
  return new ImageError(kind, text, { file: STDIO_NAME, operation, offset, code, cause: error });
}

/** The driver that is named, or the one that is surest of the pipe's head. */
async function driverOf(node: NodeSpec, input: PipeInput, drivers: readonly Driver[]): Promise<Driver> {
  if (node.driver !== null) {
    const named = drivers.find(({ name }) => name === node.driver);
    if (named === undefined) throw new ImageError('invalid', `Could not open '-': Unknown driver '${node.driver}'`);
    return named;
  }
  const best = surest(await input.peek(PROBE_SIZE), STDIO_NAME, drivers);
  if (best !== null) return best;
  throw new ImageError('unknown-format', `Could not open '-': Could not determine image format`, { file: STDIO_NAME });
}

async function openForward(node: NodeSpec, driver: Driver, input: PipeInput, request: StandardInputRequest) {
  const { forward, snapshot, implicit, secrets, sized, cache = 'writeback' } = request;
  // A description with more than driver and file wants more than a pipe can give.
  const known = driver.forwardOptions ?? [];
  const plain = Object.keys(node.options).every((key) => known.includes(key)) && (node.backing ?? null) === null;
  if (!forward || snapshot !== undefined || !plain || driver.openForward === undefined) return null;
  try {
    const gate = createGate({ implicit, cache });
    const opened = await driver.openForward({
      ...{ storage: input, options: node.options, writable: false },
      ...{ cache, gate, secrets },
    });
    return sized && opened.size === null && input.position === 0 ? null : opened;
  } catch (error) {
    if (error instanceof ForwardImpossible) return null;
    throw error;
  }
}
