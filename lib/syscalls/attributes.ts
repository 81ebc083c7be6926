import type { SystemCalls } from './calls.ts';

// Linux <linux/fs.h>. The request numbers of _IOR('f', 1, long) and its siblings on x86, ARM and RISC-V.
const FS_IOC_GETFLAGS = 0x80086601;
const FS_IOC_SETFLAGS = 0x40086602;
const FS_NOCOW_FL = 0x0080_0000;
const FS_IOC_FSGETXATTR = 0x801c581f;
const FS_IOC_FSSETXATTR = 0x401c5820;
const FS_XFLAG_EXTSIZE = 0x0000_0800;

// struct fsxattr: xflags, extsize, nextents, projid, cowextsize (all 32 bits), 8 bytes of padding.
const FSXATTR_SIZE = 28;
const FSXATTR_EXTSIZE = 4;

/** Turns copy-on-write off for a file that has no data yet (it matters on btrfs). */
export async function setNoCopyOnWrite(calls: SystemCalls, fd: number): Promise<void> {
  // An `int` in spite of the `long` in the request's number.
  const flags = new Int32Array(2);
  const argument = Buffer.from(flags.buffer);
  await calls.ioctl(fd, FS_IOC_GETFLAGS, argument);
  flags[0] |= FS_NOCOW_FL;
  await calls.ioctl(fd, FS_IOC_SETFLAGS, argument);
}

/** Asks the file system to allocate in units of `bytes` (it matters on XFS), for a file that has no data yet. */
export async function setExtentSizeHint(calls: SystemCalls, fd: number, bytes: number): Promise<void> {
  const words = new Uint32Array(FSXATTR_SIZE / 4);
  const argument = Buffer.from(words.buffer);
  await calls.ioctl(fd, FS_IOC_FSGETXATTR, argument);
  words[0] |= FS_XFLAG_EXTSIZE;
  words[FSXATTR_EXTSIZE / 4] = bytes;
  await calls.ioctl(fd, FS_IOC_FSSETXATTR, argument);
}
