import { hasParallelsMagic } from '../layouts/parallels/header.ts';
import { parallelsCreateOptions, parallelsFormattingOrder } from '../sinks/parallels/options.ts';
import type { Driver } from './driver.ts';

/** Parallels' expandable disks. What a command does not use of it is not loaded. */
export const parallels: Driver = {
  name: 'parallels',
  probe: (head) => (hasParallelsMagic(head) ? 100 : 0),
  openSource: async (request) => (await import('../sources/parallels/index.ts')).openParallels(request),
  createOptions: parallelsCreateOptions,
  formattingOrder: parallelsFormattingOrder,
  create: async (request) => (await import('../sinks/parallels/index.ts')).createParallels(request),
  openTarget: async (request) => (await import('../sinks/parallels/index.ts')).openParallelsTarget(request),
  check: async (request) => (await import('../sinks/parallels/check.ts')).checkParallels(request),
};
