import { wrapped } from '../sources/layer.ts';
import type { Storage } from '../storage/storage.ts';

/**
 * Takes the lock of who changes the length of a file that bears several writers; of others it is held from the start.
 * qemu-img takes it when it opens the file, and says so.
 */
export async function lockLength(storage: Storage): Promise<void> {
  try {
    await storage.lock?.({ uses: ['resize'], denies: [] });
  } catch (error) {
    throw wrapped(error, `Could not open '${storage.name}': `);
  }
}
