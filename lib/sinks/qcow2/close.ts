import { alignUp } from '../../core/binary.ts';
import type { Source } from '../../sources/source.ts';
import type { Qcow2Image } from './image.ts';

/** The header's first field, without which a device holds no image. */
const MAGIC_BYTES = 4;

export interface ClosedImage {
  image: Qcow2Image;
  /** Its reading half, which is closed with it. */
  source: Source;
}

/**
 * Completes an image and closes its storages: only now does a new one get its header. A new image that can't be completed is
 * left unrecognisable.
 * @param changed something was written: the file is to end with a whole cluster
 */
export async function completeAndClose({ image, source }: ClosedImage, changed: boolean): Promise<void> {
  try {
    await image.metadata.run(async () => {
      await keepWritten(image);
      await complete(image, changed);
    });
  } catch (error) {
    await closeStorages({ image, source }, image.fresh).catch(() => {});
    throw error;
  }
  await closeStorages({ image, source }, false);
}

/** Gives up: an existing image keeps what was written so far, as a valid image; a new one is left unrecognisable. */
export async function abandon({ image, source }: ClosedImage): Promise<void> {
  if (!image.fresh) await image.metadata.run(() => keepWritten(image)).catch(() => {});
  await closeStorages({ image, source }, image.fresh);
}

async function keepWritten(image: Qcow2Image): Promise<void> {
  await image.commit();
  await image.bitmaps.finishRecording();
  // Carrying releases out changes refcounts once more.
  await image.commit();
}

/** All is written; now the file gets its end, and a new one its header. */
async function complete(image: Qcow2Image, changed: boolean): Promise<void> {
  const { storage, data, external, fresh, geometry } = image;
  if (external) await data.flush();
  const end = alignUp(storage.size, geometry.clusterSize);
  if (changed && !storage.fixedSize && storage.size < end) await storage.truncate(end);
  await storage.flush();
  if (!fresh) return;
  await image.writeHeader();
  await storage.flush();
}

async function closeStorages({ image, source }: ClosedImage, discard: boolean): Promise<void> {
  const { storage, data, external } = image;
  await source.close();
  if (discard) await makeUnrecognisable(image);
  try {
    if (external) await data.close({ discard });
  } finally {
    await storage.close({ discard });
  }
}

/**
 * A file that was there before stays, and the header may be in it already when the last flush fails: nobody shall
 * take it for a disk. What is broken beneath may refuse even that.
 */
async function makeUnrecognisable({ storage }: Qcow2Image): Promise<void> {
  const emptied = storage.fixedSize ? storage.write(0, Buffer.alloc(MAGIC_BYTES)) : storage.truncate(0);
  await emptied.catch(() => {});
}
