import { ImageError } from '../core/errors.ts';
import { abortError } from '../core/streams.ts';
import type { Driver } from '../formats/driver.ts';
import { drivers as allDrivers } from '../formats/index.ts';
import { type NodeSpec, parseFilename, parseImageOpts } from '../sources/filename.ts';
import { ForwardImpossible } from '../sources/forward.ts';
import { createGate } from '../sources/gate.ts';
import { type OpenedImage, type OpenImageOptions, openImage } from '../sources/open.ts';
import type { ForwardSource, SnapshotSelector } from '../sources/source.ts';
import { PipeInput } from '../storage/pipe-input.ts';
import { directoryOf } from '../storage/spool.ts';
import { STDIO_NAME, standardInput } from '../storage/stdio.ts';
import type { CacheMode } from '../storage/storage.ts';
import type { ImageReference, VerbOptions } from './reference.ts';
import { spoolInput } from './spool-input.ts';

/** Bytes that drivers see to recognise a format. */
const PROBE_SIZE = 4096;

export interface OpenInputOptions extends Pick<VerbOptions, 'drivers' | 'implicit' | 'forceShare' | 'signal'> {
  cache?: CacheMode;
  /** False: leave the backing file alone. */
  backing?: boolean;
  /** The disk as an internal snapshot has it; a pipe is then spooled. */
  snapshot?: SnapshotSelector;
  /**
   * The caller can take a ForwardSource. Default false: what comes through a pipe is then spooled to a
   * temporary file, and the result is always an OpenedImage.
   */
  forward?: boolean;
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

/** `-` as a whole filename means standard input or output. */
export function isStandardStream(reference: ImageReference): boolean {
  return !('file' in reference) && reference.filename === STDIO_NAME && reference.imageOpts !== true;
}

/**
 * Opens what a verb reads from. `-` is standard input: an ordinary seekable image where a file was
 * redirected into it; from a pipe a ForwardSource if `forward` allows it and the image's layout does,
 * else an image spooled to a temporary file without a name, gone when the process is. What is packed by gzip, bzip2,
 * xz or zstd is unpacked, also where the format is given: `-f raw` names what is inside. With `--image-opts`,
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
  const { drivers = allDrivers(), implicit, cache, backing, snapshot, forceShare } = options;
  const common = { drivers, implicit, cache, backing, snapshot, forceShare };
  const format = 'file' in reference ? null : (reference.format ?? null);
  if (isStandardStream(reference)) {
    return openStandardInput({ ...parseFilename(STDIO_NAME), driver: format }, { ...options, ...common, unpack: true });
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

interface StandardInputRequest extends OpenInputOptions {
  drivers: readonly Driver[];
  unpack: boolean;
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
  const driver = await driverOf(node, input, request.drivers);
  const forward = await openForward(node, driver, input, request);
  if (forward !== null) return { forward };
  const storage = await spoolInput(input, directoryOf(request.outputFilename), request.signal);
  return openImage({ ...node, driver: driver.name }, { ...imageOptions(request), storage });
}

function imageOptions(request: StandardInputRequest): OpenImageOptions {
  const { drivers, implicit, cache, backing, snapshot, forceShare } = request;
  return { drivers, implicit, cache, backing, snapshot, forceShare };
}

/** The driver that is named, or the one that is surest of the pipe's head. */
async function driverOf(node: NodeSpec, input: PipeInput, drivers: readonly Driver[]): Promise<Driver> {
  if (node.driver !== null) {
    const named = drivers.find(({ name }) => name === node.driver);
    if (named === undefined) throw new ImageError('invalid', `Could not open '-': Unknown driver '${node.driver}'`);
    return named;
  }
  const head = await input.peek(PROBE_SIZE);
  let [best, highest]: [Driver | null, number] = [null, 0];
  for (const driver of drivers) {
    const score = driver.probe(head, STDIO_NAME);
    if (score > highest) [best, highest] = [driver, score];
  }
  if (best !== null) return best;
  throw new ImageError('unknown-format', `Could not open '-': Could not determine image format`, { file: STDIO_NAME });
}

async function openForward(node: NodeSpec, driver: Driver, input: PipeInput, request: StandardInputRequest) {
  const { forward, snapshot, implicit, cache = 'writeback' } = request;
  // A description with more than driver and file wants more than a pipe can give.
  const plain = Object.keys(node.options).length === 0 && (node.backing ?? null) === null;
  if (!forward || snapshot !== undefined || !plain || driver.openForward === undefined) return null;
  try {
    const gate = createGate({ implicit, cache });
    return await driver.openForward({ storage: input, options: {}, writable: false, cache, gate });
  } catch (error) {
    if (error instanceof ForwardImpossible) return null;
    throw error;
  }
}
