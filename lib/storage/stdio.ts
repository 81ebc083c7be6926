import { constants, fstat, readFile, type Stats } from 'node:fs';
import { isatty } from 'node:tty';
import { fromSystemError, ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import { systemCalls } from '../syscalls/calls.ts';
import { enlargePipe } from '../syscalls/pipe.ts';
import { openDescriptor, readAt } from './descriptor.ts';
import { openFile, syncFlag } from './file.ts';
import { PipeInput } from './pipe-input.ts';
import { descriptorWriter, PipeOutput, pipeWriter } from './pipe-output.ts';
import { readDescriptor, readPipe } from './pipe-reader.ts';
import type { CacheMode, CloseOptions, Storage } from './storage.ts';
import { detectPacking, PACKING_MAGIC_BYTES, unpack } from './unpack.ts';

/** What messages call standard input and output: as the user wrote it. */
export const STDIO_NAME = '-';

const STDIN = 0;
const STDOUT = 1;
const PIPE_CAPACITY = 1024 * 1024;

/** Both ends exist once: whoever is done with one closes it, and its number may then be another file's. */
const taken = new Set<number>();

const traceStdio = tracePoint('stdio_open');

/** The file that a descriptor stands for, and where in it the next read or write goes. */
interface DescriptorState {
  stats: Stats;
  /** Null where the system does not tell. */
  position: number | null;
  append: boolean;
}

export interface StandardInputOptions {
  cache?: CacheMode;
  /** False: a packed stream is taken as it is. */
  unpack?: boolean;
  /** Gives up what is being waited for. */
  signal?: AbortSignal;
}

/**
 * Standard input as a storage: for random access where a file or block device was redirected into it and is not
 * packed; else a PipeInput, unpacked. Nothing is consumed yet.
 */
export async function standardInput(options: StandardInputOptions = {}): Promise<Storage | PipeInput> {
  const { cache, unpack: unpacks = true, signal } = options;
  const { stats, position } = await inspect(STDIN, 'read');
  const isFile = (stats.isFile() || stats.isBlockDevice()) && position === 0;
  const seekable = isFile && !(unpacks && (await isPacked(STDIN)));
  if (traceStdio.enabled) traceStdio.emit({ end: 'input', pipe: stats.isFIFO(), seekable });
  if (seekable) return openFile(STDIO_NAME, { fd: STDIN, cache });
  if (stats.isFIFO()) await enlargePipe(STDIN, PIPE_CAPACITY);
  const controller = new AbortController();
  const stop = () => controller.abort();
  signal?.addEventListener('abort', stop, { once: true });
  if (signal?.aborted) stop();
  const isPipe = stats.isFIFO() || stats.isSocket();
  const chunks = isPipe ? readPipe(STDIN, STDIO_NAME, controller.signal) : readDescriptor(STDIN, STDIO_NAME);
  return new PipeInput(STDIO_NAME, unpacks ? unpack(chunks, STDIO_NAME) : chunks, stop);
}

async function isPacked(fd: number): Promise<boolean> {
  const head = Buffer.alloc(PACKING_MAGIC_BYTES);
  const count = await readAt(fd, head, 0).catch((error) => {
    throw fromSystemError(error, { file: STDIO_NAME, operation: 'read', offset: 0 });
  });
  return detectPacking(head.subarray(0, count)) !== null;
}

/**
 * Standard output as a storage: seekable where it is an empty regular file at its start, not opened for appending,
 * whose position can be moved to its end afterwards (`{ imgpipe …; cat more; } > file`); else it goes forward.
 * @param signal gives up a write that a reader does not take
 */
export async function standardOutput(cache?: CacheMode, signal?: AbortSignal): Promise<Storage> {
  const state = await inspect(STDOUT, 'write');
  const seekable = await seekableOutput(state, cache);
  if (traceStdio.enabled) traceStdio.emit({ end: 'output', pipe: state.stats.isFIFO(), seekable: seekable !== null });
  if (seekable !== null) return seekable;
  const isPipe = state.stats.isFIFO() || state.stats.isSocket();
  if (state.stats.isFIFO()) await enlargePipe(STDOUT, PIPE_CAPACITY);
  const output = new PipeOutput(STDIO_NAME, isPipe ? pipeWriter(STDOUT) : descriptorWriter(STDOUT));
  signal?.addEventListener('abort', () => output.stop(), { once: true });
  if (signal?.aborted) output.stop();
  return output;
}

async function seekableOutput(state: DescriptorState, cache?: CacheMode): Promise<Storage | null> {
  const { stats, position, append } = state;
  if (!stats.isFile() || stats.size !== 0 || position !== 0 || append) return null;
  const calls = await systemCalls();
  if (calls === null) return null;
  // Shells open it for writing only, and images need reading too: the same file once more.
  const fd = await openDescriptor(`/proc/self/fd/${STDOUT}`, constants.O_RDWR | syncFlag(cache), 0).catch(() => null);
  if (fd === null) return null;
  const storage = await openFile(STDIO_NAME, { fd, writable: true, cache });
  const close = storage.close.bind(storage);
  storage.close = async (options?: CloseOptions) => {
    await close(options);
    calls.seekEnd(STDOUT);
  };
  return storage;
}

async function inspect(fd: number, operation: string): Promise<DescriptorState> {
  if (taken.has(fd)) {
    const what = fd === STDIN ? 'Standard input' : 'Standard output';
    throw new ImageError('invalid', `${what} can be used only once`, { file: STDIO_NAME, operation });
  }
  taken.add(fd);
  try {
    const stats = await new Promise<Stats>((resolve, reject) => {
      fstat(fd, (error, result) => (error ? reject(error) : resolve(result)));
    });
    refuseTerminal(fd, stats, operation);
    return { stats, ...(await positionOf(fd)) };
  } catch (error) {
    throw fromSystemError(error, { file: STDIO_NAME, operation });
  }
}

function refuseTerminal(fd: number, stats: Stats, operation: string): void {
  if (!stats.isCharacterDevice() || !isatty(fd)) return;
  const what = operation === 'read' ? 'Standard input' : 'Standard output';
  throw new ImageError('refused', `${what} is a terminal, which is no place for a disk image`, {
    file: STDIO_NAME,
    operation,
  });
}

/** Position and flags of a descriptor: Linux tells them in /proc (proc(5), fdinfo). */
async function positionOf(fd: number): Promise<{ position: number | null; append: boolean }> {
  const text = await new Promise<string>((resolve) => {
    readFile(`/proc/self/fdinfo/${fd}`, 'latin1', (error, content) => resolve(error ? '' : content));
  });
  const position = /^pos:\s*(\d+)/m.exec(text);
  const flags = /^flags:\s*([0-7]+)/m.exec(text);
  return {
    position: position === null ? null : Number(position[1]),
    append: flags !== null && (Number.parseInt(flags[1], 8) & constants.O_APPEND) !== 0,
  };
}
