import { isCloop } from '../layouts/cloop.ts';
import type { Driver } from './driver.ts';

/** Compressed loop, version 2: what Knoppix is made of. Read only. */
export const cloop: Driver = {
  name: 'cloop',
  probe: (head) => (isCloop(head) ? 2 : 0),
  openSource: async (request) => (await import('../sources/cloop/index.ts')).openCloop(request),
};
