import { isQcow } from '../layouts/qcow.ts';
import { qcowCreateOptions, qcowFormattingOrder } from '../sinks/qcow/options.ts';
import type { Driver } from './driver.ts';

/** QEMU's first copy-on-write format: version 1 of what became qcow2. */
export const qcow: Driver = {
  name: 'qcow',
  probe: (head) => (isQcow(head) ? 100 : 0),
  openSource: async (request) => (await import('../sources/qcow/index.ts')).openQcow(request),
  createOptions: qcowCreateOptions,
  formattingOrder: qcowFormattingOrder,
  create: async (request) => (await import('../sinks/qcow/index.ts')).createQcow(request),
  openTarget: async (request) => (await import('../sinks/qcow/index.ts')).openQcowTarget(request),
  supportsBacking: true,
  supportsCompression: true,
};
