import { hasQedMagic } from '../layouts/qed/header.ts';
import { qedCreateOptions, qedFormattingOrder } from '../sinks/qed/options.ts';
import type { Driver } from './driver.ts';

/** QEMU Enhanced Disk. What a command does not use of it is not loaded. */
export const qed: Driver = {
  name: 'qed',
  probe: (head) => (hasQedMagic(head) ? 100 : 0),
  openSource: async (request) => (await import('../sources/qed/index.ts')).openQed(request),
  createOptions: qedCreateOptions,
  formattingOrder: qedFormattingOrder,
  create: async (request) => (await import('../sinks/qed/index.ts')).createQed(request),
  openTarget: async (request) => (await import('../sinks/qed/index.ts')).openQedTarget(request),
  check: async (request) => (await import('../sinks/qed/check.ts')).checkQed(request),
  growable: true,
  supportsBacking: true,
};
