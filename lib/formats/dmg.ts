import type { Driver } from './driver.ts';

const SUFFIX = '.dmg';

/** Apple's disk images (UDIF), read only. */
export const dmg: Driver = {
  name: 'dmg',
  // What tells it lies at its end: QEMU goes by the name, and so do we.
  probe: (_head, filename) => (filename.length > SUFFIX.length && filename.endsWith(SUFFIX) ? 2 : 0),
  openSource: async (request) => (await import('../sources/dmg/index.ts')).openDmg(request),
};
