import { hasVdiSignature } from '../layouts/vdi.ts';
import { vdiCreateOptions, vdiFormattingOrder } from '../sinks/vdi/options.ts';
import type { Driver } from './driver.ts';

/** VirtualBox's images, dynamic and static. */
export const vdi: Driver = {
  name: 'vdi',
  probe: (head) => (hasVdiSignature(head) ? 100 : 0),
  openSource: async (request) => (await import('../sources/vdi/index.ts')).openVdi(request),
  createOptions: vdiCreateOptions,
  formattingOrder: vdiFormattingOrder,
  create: async (request) => (await import('../sinks/vdi/index.ts')).createVdi(request),
  openTarget: async (request) => (await import('../sinks/vdi/index.ts')).openVdiTarget(request),
  check: async (request) => (await import('../sinks/vdi/check.ts')).checkVdi(request),
};
