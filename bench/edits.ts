import type { Case } from './case.ts';
import { type Disks, OVERLAY_BASE } from './disk.ts';

const IMAGE = 'image.qcow2';

/** A command whose last argument is a fresh copy of the disk. */
function edit(name: string, args: readonly string[], disk: (disks: Disks) => string, repeat?: number): Case {
  return {
    ...{ name, aim: 1, repeat },
    copies: (disks) => ({ [IMAGE]: disk(disks) }),
    args: (_, __, copy) => [...args, copy(IMAGE)],
  };
}

/** Commands that work in place. */
export const editCases: readonly Case[] = [
  { name: 'check', aim: 1, repeat: 3, args: (d) => ['check', d.qcow2] },
  { name: 'check, compressed', aim: 1, repeat: 3, args: (d) => ['check', d.compressed] },
  { name: 'check, 64 TiB', aim: 1, args: (d) => ['check', d.huge] },
  edit('check -r all, leaks', ['check', '-r', 'all'], (d) => d.leaking, 3),
  {
    ...{ name: 'commit', aim: 1 },
    copies: (d) => ({ [IMAGE]: d.overlay, [OVERLAY_BASE]: d.overlayBase }),
    args: (_, __, copy) => ['commit', '-q', copy(IMAGE)],
  },
  {
    ...{ name: 'rebase', aim: 1 },
    copies: (d) => ({ [IMAGE]: d.chain }),
    args: (d, _, copy) => ['rebase', '-b', d.qcow2, '-F', 'qcow2', copy(IMAGE)],
  },
  edit('rebase to none', ['rebase', '-b', ''], (d) => d.chain),
  edit('snapshot -c', ['snapshot', '-c', 'new'], (d) => d.qcow2, 3),
  edit('snapshot -a', ['snapshot', '-a', 'old'], (d) => d.snapshots, 3),
  edit('snapshot -d', ['snapshot', '-d', 'old'], (d) => d.snapshots, 3),
  {
    ...{ name: 'resize to more', aim: 1, repeat: 3 },
    copies: (d) => ({ [IMAGE]: d.qcow2 }),
    args: (_, __, copy) => ['resize', '-q', copy(IMAGE), '+1T'],
  },
  {
    ...{ name: 'resize to less', aim: 1, repeat: 3 },
    copies: (d) => ({ [IMAGE]: d.qcow2 }),
    args: (_, __, copy) => ['resize', '-q', '--shrink', copy(IMAGE), '512M'],
  },
  {
    ...{ name: 'amend compat=0.10', aim: 1 },
    copies: (d) => ({ [IMAGE]: d.overlay, [OVERLAY_BASE]: d.overlayBase }),
    args: (_, __, copy) => ['amend', '-f', 'qcow2', '-o', 'compat=0.10', copy(IMAGE)],
  },
];
