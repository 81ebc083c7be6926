import { alignUp } from '../core/binary.ts';
import { defineOptions } from '../core/options.ts';
import { createRaw, openRawTarget } from '../sinks/raw.ts';
import { streamRaw } from '../sinks/raw-stream.ts';
import { openRaw, SECTOR } from '../sources/raw.ts';
import { openRawForward } from '../sources/raw-forward.ts';
import type { Driver, StreamRequest } from './driver.ts';

const createOptions = defineOptions({ size: { type: 'size', help: 'Virtual disk size' } });

/** The bytes of a disk and nothing else. Its options are those of the file that holds it. */
export const raw: Driver = {
  name: 'raw',
  // Any file may be one; whoever is surer goes first.
  probe: () => 1,
  plain: true,
  openSource: openRaw,
  openForward: openRawForward,
  createOptions,
  formattingOrder: [],
  create: (request) => (request.storage.seekable ? createRaw(request) : streamRawOf(request)),
  createStream: streamRawOf,
  openTarget: openRawTarget,
  async measure({ size }) {
    // Like qemu-img: as if it were all data, though a file may have holes.
    const whole = alignUp(size, SECTOR);
    return { required: whole, fullyAllocated: whole };
  },
  growable: true,
};

async function streamRawOf({ storage, size, options }: Pick<StreamRequest, 'storage' | 'size' | 'options'>) {
  return streamRaw(storage, size, options);
}
