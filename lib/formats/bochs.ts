import { isBochs } from '../layouts/bochs.ts';
import type { Driver } from './driver.ts';

/** Growing redolog of the Bochs emulator, read only. */
export const bochs: Driver = {
  name: 'bochs',
  probe: (head) => (isBochs(head) ? 100 : 0),
  openSource: async (request) => (await import('../sources/bochs/index.ts')).openBochs(request),
};
