import { hasCowdMagic } from '../layouts/vmdk/cowd.ts';
import { looksLikeDescriptor } from '../layouts/vmdk/descriptor.ts';
import { hasSparseMagic } from '../layouts/vmdk/header.ts';
import { vmdkCreateOptions, vmdkFormattingOrder } from '../sinks/vmdk/options.ts';
import type { Driver } from './driver.ts';

/** VMware's format: one or several extents, and the descriptor that joins them. */
export const vmdk: Driver = {
  name: 'vmdk',
  probe: (head) => (hasSparseMagic(head) || hasCowdMagic(head) || looksLikeDescriptor(head) ? 100 : 0),
  openSource: async (request) => (await import('../sources/vmdk/index.ts')).openVmdk(request),
  openForward: async (request) => (await import('../sources/vmdk/forward.ts')).openVmdkForward(request),
  createOptions: vmdkCreateOptions,
  formattingOrder: vmdkFormattingOrder,
  create: async (request) => (await import('../sinks/vmdk/create.ts')).createVmdk(request),
  createStream: async (request) => (await import('../sinks/vmdk/create.ts')).createVmdkStream(request),
  openTarget: async (request) => (await import('../sinks/vmdk/open.ts')).openVmdkTarget(request),
  check: async (request) => (await import('../sinks/vmdk/check.ts')).checkVmdk(request),
  supportsBacking: true,
  supportsCompression: true,
};
