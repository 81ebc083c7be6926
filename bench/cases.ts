import type { Case } from './case.ts';
import type { Disks } from './disk.ts';
import { editCases } from './edits.ts';
import { encryptionCases } from './encryption.ts';

const convert =
  (...args: string[]) =>
  (source: (disks: Disks) => string) =>
  (disks: Disks, output: string) => ['convert', ...args, source(disks), output];

export const cases: readonly Case[] = [
  { name: 'raw → raw', aim: 1, args: convert('-O', 'raw')((d) => d.raw) },
  { name: 'raw → qcow2', aim: 1, args: convert('-O', 'qcow2')((d) => d.raw) },
  { name: 'raw → qcow2 -W -m 16', aim: 1, args: convert('-O', 'qcow2', '-W', '-m', '16')((d) => d.raw) },
  { name: 'qcow2 → raw', aim: 1, args: convert('-O', 'raw')((d) => d.qcow2) },
  { name: 'qcow2 → qcow2', aim: 1, args: convert('-O', 'qcow2')((d) => d.qcow2) },
  { name: '3-deep chain → raw', aim: 1, args: convert('-O', 'raw')((d) => d.chain) },
  { name: 'raw → qcow2 -c (zlib)', aim: 0.4, args: convert('-c', '-O', 'qcow2')((d) => d.raw) },
  {
    name: 'raw → qcow2 -c (zstd)',
    aim: 1,
    args: convert('-c', '-O', 'qcow2', '-o', 'compression_type=zstd')((d) => d.raw),
  },
  { name: 'compressed → raw', aim: 1, args: convert('-O', 'raw')((d) => d.compressed) },
  { name: 'compare', aim: 1, args: (d) => ['compare', '-f', 'raw', '-F', 'qcow2', d.raw, d.qcow2] },
  { name: 'map', aim: 1, args: (d) => ['map', '--output=json', d.chain] },
  { name: 'measure', aim: 1, args: (d) => ['measure', '-O', 'qcow2', d.raw] },
  { name: 'info', aim: 1.6, args: (d) => ['info', d.qcow2], against: ['node', '-e', '0'], repeat: 5 },
  { name: 'dd', aim: 1, args: (d, out) => ['dd', '-O', 'raw', 'bs=2M', `if=${d.raw}`, `of=${out}`] },
  ...(['vmdk', 'vdi', 'vpc', 'vhdx', 'qed', 'parallels'] as const).flatMap((format): Case[] => [
    { name: `raw → ${format}`, aim: 1, args: convert('-O', format)((d) => d.raw) },
    { name: `${format} → raw`, aim: 1, args: convert('-f', format, '-O', 'raw')((d) => d[format]) },
  ]),
  {
    name: 'raw → vmdk streamOptimized',
    aim: 0.4,
    args: convert('-O', 'vmdk', '-o', 'subformat=streamOptimized')((d) => d.raw),
  },
  { name: 'vmdk streamOptimized → raw', aim: 1, args: convert('-f', 'vmdk', '-O', 'raw')((d) => d.streamOptimized) },
  { name: 'dmg (zlib) → raw', aim: 1, args: convert('-f', 'dmg', '-O', 'raw')((d) => d.dmg) },
  { name: '64 TiB, 4000 clusters → qcow2', aim: 1, args: convert('-O', 'qcow2')((d) => d.huge) },
  ...editCases,
  ...encryptionCases,
];
