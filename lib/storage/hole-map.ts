import { ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import type { SystemCalls } from '../syscalls/calls.ts';
import { isUnsupported } from '../syscalls/libc.ts';
import type { HostRange } from './storage.ts';

/** Ranges of one answer: a fragmented file is told in many small lists. */
const MAX_RANGES = 1024;

const traceHoles = tracePoint('file_holes');

/**
 * Data and holes of [offset, end), `end` being at most the file's length as it was when opened; covers the range
 * or a prefix of it. Null where the file system can't tell. By lseek(2), SEEK_DATA and SEEK_HOLE.
 */
export function mapHoles(
  calls: SystemCalls,
  fd: number,
  file: { name: string; size: number },
  { offset, end }: { offset: number; end: number },
): HostRange[] | null {
  try {
    const ranges = walk(calls, fd, file, { offset, end });
    if (traceHoles.enabled) traceHoles.emit({ file: file.name, offset, end, ranges: ranges.length });
    return ranges;
  } catch (error) {
    if (!isUnsupported(error)) throw error;
    return null;
  }
}

function walk(
  calls: SystemCalls,
  fd: number,
  file: { name: string; size: number },
  { offset, end }: { offset: number; end: number },
): HostRange[] {
  const ranges: HostRange[] = [];
  for (let at = offset; at < end && ranges.length < MAX_RANGES; ) {
    const data = calls.seek(fd, at, 'data');
    // Beyond the last data: a hole up to the end, if the end is still where it was.
    if (data === null) checkLength(calls, fd, file, at);
    const start = Math.min(data ?? end, end);
    if (start > at) ranges.push({ offset: at, length: start - at, hole: true });
    if (start >= end) break;
    at = Math.min(calls.seek(fd, start, 'hole') ?? end, end);
    // A file that changes between the two calls may answer with the same position: take it all for data.
    if (at <= start) at = end;
    ranges.push({ offset: start, length: at - start, hole: false });
  }
  return ranges;
}

function checkLength(calls: SystemCalls, fd: number, { name, size }: { name: string; size: number }, at: number): void {
  if (calls.seekEnd(fd) >= size) return;
  throw new ImageError('io', 'The file shrank while it was read', { file: name, operation: 'read', offset: at });
}
