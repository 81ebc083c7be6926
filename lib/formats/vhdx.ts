import { hasVhdxSignature } from '../layouts/vhdx/header.ts';
import { vhdxCreateOptions, vhdxFormattingOrder } from '../sinks/vhdx/options.ts';
import type { Driver } from './driver.ts';

/** Hyper-V's second format: dynamic, fixed and (for reading) differencing disks. */
export const vhdx: Driver = {
  name: 'vhdx',
  probe: (head) => (hasVhdxSignature(head) ? 100 : 0),
  openSource: async (request) => (await import('../sources/vhdx/index.ts')).openVhdx(request),
  createOptions: vhdxCreateOptions,
  formattingOrder: vhdxFormattingOrder,
  create: async (request) => (await import('../sinks/vhdx/index.ts')).createVhdx(request),
  openTarget: async (request) => (await import('../sinks/vhdx/index.ts')).openVhdxTarget(request),
  check: async (request) => (await import('../sinks/vhdx/check.ts')).checkVhdx(request),
  growable: true,
};
