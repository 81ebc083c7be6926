import { constants, fstat, open, readFile, type Stats } from 'node:fs';
import { isatty } from 'node:tty';
import { fromSystemError, ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import { systemCalls } from '../syscalls/calls.ts';
import { enlargePipe } from '../syscalls/pipe.ts';
import type { ChunkStream } from './chunks.ts';
import { openFile } from './file.ts';
import { PipeInput } from './pipe-input.ts';
import { descriptorWriter, PipeOutput, pipeWriter } from './pipe-output.ts';
import { readDescriptor, readPipe } from './pipe-reader.ts';
import type { CacheMode, CloseOptions, Storage } from './storage.ts';

/** What messages call standard input and output: as the user wrote it. */
export const STDIO_NAME = '-';

const STDIN = 0;
const STDOUT = 1;
const PIPE_CAPACITY = 1024 * 1024;

const traceStdio = tracePoint('stdio_open');

/** The file that a descriptor stands for, and where in it the next read or write goes. */
interface DescriptorState {
  stats: Stats;
  /** Null where the system does not tell. */
  position: number | null;
  append: boolean;
}

/** Standard input as bytes that come once. Nothing is read before the first chunk is asked for. */
export async function standardInputStream(): Promise<ChunkStream> {
  const { stats } = await inspect(STDIN, 'read');
  if (traceStdio.enabled) traceStdio.emit({ end: 'input', pipe: stats.isFIFO(), seekable: false });
  if (!stats.isFIFO() && !stats.isSocket()) return readDescriptor(STDIN, STDIO_NAME);
  if (stats.isFIFO()) await enlargePipe(STDIN, PIPE_CAPACITY);
  return readPipe(STDIN, STDIO_NAME);
}

/** Standard input as a storage for random access where a file or block device was redirected into it, else null. */
export async function seekableStandardInput(cache?: CacheMode): Promise<Storage | null> {
  const { stats, position } = await inspect(STDIN, 'read');
  if ((!stats.isFile() && !stats.isBlockDevice()) || position !== 0) return null;
  if (traceStdio.enabled) traceStdio.emit({ end: 'input', pipe: false, seekable: true });
  return openFile(STDIO_NAME, { fd: STDIN, cache });
}

/** Standard input, perhaps unpacked, as a storage that goes forward. */
export function pipeInput(chunks: ChunkStream): PipeInput {
  return new PipeInput(STDIO_NAME, chunks);
}

/**
 * Standard output as a storage: seekable where it is an empty regular file at its start, not opened for appending,
 * whose position can be moved to its end afterwards (`{ imgpipe …; cat more; } > file`); else it goes forward.
 */
export async function standardOutput(cache?: CacheMode): Promise<Storage> {
  const state = await inspect(STDOUT, 'write');
  const seekable = await seekableOutput(state, cache);
  if (traceStdio.enabled) traceStdio.emit({ end: 'output', pipe: state.stats.isFIFO(), seekable: seekable !== null });
  if (seekable !== null) return seekable;
  const isPipe = state.stats.isFIFO() || state.stats.isSocket();
  if (state.stats.isFIFO()) await enlargePipe(STDOUT, PIPE_CAPACITY);
  return new PipeOutput(STDIO_NAME, isPipe ? pipeWriter(STDOUT) : descriptorWriter(STDOUT));
}

async function seekableOutput(state: DescriptorState, cache?: CacheMode): Promise<Storage | null> {
  const { stats, position, append } = state;
  if (!stats.isFile() || stats.size !== 0 || position !== 0 || append) return null;
  const calls = await systemCalls();
  if (calls === null) return null;
  // Shells open it for writing only, and images need reading too: the same file once more.
  const fd = await openDescriptor(`/proc/self/fd/${STDOUT}`).catch(() => null);
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

function openDescriptor(path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    open(path, constants.O_RDWR, (error, fd) => (error ? reject(error) : resolve(fd)));
  });
}
