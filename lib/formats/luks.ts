import { hasLuksMagic } from '../layouts/luks.ts';
import { luksAmendOptions, luksCreateOptions, luksFormattingOrder } from '../sinks/luks/options.ts';
import type { Driver } from './driver.ts';

/**
 * Linux Unified Key Setup: an encrypted disk behind a header with key slots. Version 2, which QEMU does not know, is read,
 * and its disk written to; only version 1 is made, and its key slots changed.
 */
export const luks: Driver = {
  name: 'luks',
  probe: (head) => (hasLuksMagic(head, 1) || hasLuksMagic(head, 2) ? 100 : 0),
  plain: true,
  openSource: async (request) => (await import('../sources/luks/index.ts')).openLuks(request),
  openForward: async (request) => (await import('../sources/luks/forward.ts')).openLuksForward(request),
  forwardOptions: ['key-secret'],
  createOptions: luksCreateOptions,
  formattingOrder: luksFormattingOrder,
  create: async (request) => (await import('../sinks/luks/index.ts')).createLuks(request),
  createStream: async (request) => (await import('../sinks/luks/stream.ts')).createLuksStream(request),
  openTarget: async (request) => (await import('../sinks/luks/index.ts')).openLuksTarget(request),
  measure: async (request) => (await import('../sinks/luks/index.ts')).measureLuks(request),
  growable: true,
  amendOptions: luksAmendOptions,
  amend: async (request) => (await import('../sinks/luks/index.ts')).amendLuksImage(request),
};
