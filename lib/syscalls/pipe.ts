import { loadLibc } from './libc.ts';

/** Linux <fcntl.h>. */
const F_SETPIPE_SZ = 1031;

/**
 * Raises the capacity of a pipe, so that fewer switches between its two ends move the same bytes. Nothing happens
 * where it is no pipe, or the system has no such call, or the user's pipes hold too much already.
 */
export async function enlargePipe(fd: number, bytes: number): Promise<void> {
  if (process.platform !== 'linux' || process.env.IMGPIPE_SYSCALLS === 'off') return;
  const libc = await loadLibc();
  libc?.bind('int fcntl(int fd, int command, ...)')?.(fd, F_SETPIPE_SZ, 'int', bytes);
}
