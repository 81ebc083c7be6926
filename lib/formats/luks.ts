import { hasLuksMagic } from '../layouts/luks.ts';
import { luksAmendOptions, luksCreateOptions, luksFormattingOrder } from '../sinks/luks/options.ts';
import type { Driver } from './driver.ts';

/** Linux Unified Key Setup, version 1: an encrypted disk behind a header with key slots. */
export const luks: Driver = {
  name: 'luks',
  probe: (head) => (hasLuksMagic(head, 1) ? 100 : 0),
  openSource: async (request) => (await import('../sources/luks/index.ts')).openLuks(request),
  createOptions: luksCreateOptions,
  formattingOrder: luksFormattingOrder,
  create: async (request) => (await import('../sinks/luks/index.ts')).createLuks(request),
  openTarget: async (request) => (await import('../sinks/luks/index.ts')).openLuksTarget(request),
  measure: async (request) => (await import('../sinks/luks/index.ts')).measureLuks(request),
  growable: true,
  amendOptions: luksAmendOptions,
  amend: async (request) => (await import('../sinks/luks/index.ts')).amendLuksImage(request),
};
