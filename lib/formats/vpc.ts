import { hasCookie } from '../layouts/vpc/footer.ts';
import { vpcCreateOptions, vpcFormattingOrder } from '../sinks/vpc/options.ts';
import type { Driver } from './driver.ts';

/** Microsoft's Virtual Hard Disk (VHD), under QEMU's name for it. What a command does not use of it is not loaded. */
export const vpc: Driver = {
  name: 'vpc',
  // Of fixed disks only the end tells what they are, so they pass for raw unless the format is named.
  probe: (head) => (hasCookie(head) ? 100 : 0),
  openSource: async (request) => (await import('../sources/vpc/index.ts')).openVpc(request),
  openForward: async (request) => (await import('../sources/vpc/forward.ts')).openVpcForward(request),
  createOptions: vpcCreateOptions,
  formattingOrder: vpcFormattingOrder,
  create: async (request) => (await import('../sinks/vpc/index.ts')).createVpc(request),
  createStream: async (request) => (await import('../sinks/vpc/stream.ts')).createVpcStream(request),
  openTarget: async (request) => (await import('../sinks/vpc/index.ts')).openVpcTarget(request),
  growable: true,
};
