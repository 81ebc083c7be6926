import { hasQcow2Magic } from '../layouts/qcow2/header.ts';
import { qcow2AmendOptions } from '../sinks/qcow2/amend/options.ts';
import { qcow2CreateOptions, qcow2FormattingOrder } from '../sinks/qcow2/options.ts';
import type { Driver } from './driver.ts';

/** QEMU's own format, versions 2 and 3. What a command does not use of it is not loaded. */
export const qcow2: Driver = {
  name: 'qcow2',
  // Version 1 has the same magic, and is a format of its own.
  probe: (head) => (hasQcow2Magic(head) && head.length >= 8 && head.readUInt32BE(4) >= 2 ? 100 : 0),
  openSource: async (request) => (await import('../sources/qcow2/index.ts')).openQcow2(request),
  openForward: async (request) => (await import('../sources/qcow2/forward.ts')).openQcow2Forward(request),
  createOptions: qcow2CreateOptions,
  formattingOrder: qcow2FormattingOrder,
  create: async (request) => (await import('../sinks/qcow2/index.ts')).createQcow2(request),
  createStream: async (request) => (await import('../sinks/qcow2/stream.ts')).createQcow2Stream(request),
  openTarget: async (request) => (await import('../sinks/qcow2/index.ts')).openQcow2Target(request),
  measure: async (request) => (await import('../sinks/qcow2/index.ts')).measureQcow2(request),
  growable: true,
  check: async (request) => (await import('../sinks/qcow2/check/index.ts')).checkQcow2(request),
  amendOptions: qcow2AmendOptions,
  amend: async (request) => (await import('../sinks/qcow2/amend/index.ts')).amendQcow2(request),
  openSnapshots: async (request) => (await import('../sinks/qcow2/snapshots/index.ts')).openQcow2Snapshots(request),
  supportsBacking: true,
  supportsCompression: true,
  supportsBitmaps: true,
};
