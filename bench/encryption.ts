import type { Case } from './case.ts';
import { SECRET } from './disk.ts';

const KEY = ['--object', SECRET];
const QCOW2 = 'encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10';

/** Both ways through a cipher; keys are derived in next to no time. */
export const encryptionCases: readonly Case[] = [
  {
    ...{ name: 'raw → luks', aim: 1 },
    args: (d, out) => ['convert', ...KEY, '-f', 'raw', '-O', 'luks', '-o', 'key-secret=key,iter-time=10', d.raw, out],
  },
  {
    ...{ name: 'luks → raw', aim: 1 },
    args: (d, out) => [
      ...['convert', ...KEY, '--image-opts', '-O', 'raw'],
      ...[`driver=luks,file.filename=${d.luks},key-secret=key`, out],
    ],
  },
  {
    ...{ name: 'raw → qcow2, encrypted', aim: 1 },
    args: (d, out) => ['convert', ...KEY, '-f', 'raw', '-O', 'qcow2', '-o', QCOW2, d.raw, out],
  },
  {
    ...{ name: 'qcow2, encrypted → raw', aim: 1 },
    args: (d, out) => [
      ...['convert', ...KEY, '--image-opts', '-O', 'raw'],
      ...[`driver=qcow2,file.filename=${d.encrypted},encrypt.format=luks,encrypt.key-secret=key`, out],
    ],
  },
];
