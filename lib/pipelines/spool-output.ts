import { tracePoint } from '../core/trace.ts';
import type { CreateRequest, Driver } from '../formats/driver.ts';
import type { Target } from '../sinks/target.ts';
import { openSpool } from '../storage/spool.ts';
import type { Storage } from '../storage/storage.ts';

const BUFFER_BYTES = 1024 * 1024;

const traceSpooled = tracePoint('output_spooled');

/**
 * Makes an image in a temporary file without a name (in the system's temporary directory), and sends it down the pipe
 * when it is complete: for what can't be made in one pass. The file takes as much room as the image.
 */
export async function spoolOutput(driver: Driver, request: CreateRequest): Promise<Target> {
  const pipe = request.storage;
  const spool = await openSpool(null, pipe.name);
  const closeSpool = spool.close.bind(spool);
  // Completing the target must not take the file away: it is still to be sent.
  spool.close = async () => {};
  try {
    const target = (await driver.create?.({ ...request, storage: spool })) as Target;
    return sentOnClose(target, { spool, closeSpool, pipe });
  } catch (error) {
    await closeSpool();
    throw error;
  }
}

interface Places {
  spool: Storage;
  closeSpool: () => Promise<void>;
  pipe: Storage;
}

function sentOnClose(target: Target, { spool, closeSpool, pipe }: Places): Target {
  const { close, abort } = target;
  let completed = false;
  target.close = async () => {
    if (completed) return;
    completed = true;
    try {
      await close.call(target);
      if (traceSpooled.enabled) traceSpooled.emit({ file: pipe.name, bytes: spool.size });
      await send(spool, pipe);
      await pipe.close();
    } finally {
      await closeSpool();
    }
  };
  target.abort = async () => {
    await pipe.close({ discard: true });
    await abort.call(target);
    await closeSpool();
  };
  return target;
}

async function send(spool: Storage, pipe: Storage): Promise<void> {
  const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  for (let offset = 0; offset < spool.size; ) {
    for (const range of await spool.holes(offset, spool.size - offset)) {
      if (range.hole) await pipe.zero(range.offset, range.length);
      for (let done = 0; !range.hole && done < range.length; done += buffer.length) {
        const part = buffer.subarray(0, Math.min(buffer.length, range.length - done));
        await spool.read(range.offset + done, part);
        await pipe.write(range.offset + done, part);
      }
      offset = range.offset + range.length;
    }
  }
}
