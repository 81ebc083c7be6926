import { ImageError } from '../core/errors.ts';
import { readPadded, type Storage } from '../storage/storage.ts';
import type { SourceDriver } from './source.ts';

/** Bytes that drivers see to recognise a format. */
export const PROBE_SIZE = 4096;

/** The driver that is surest that `head` is its own, the first of equals; null where none is. */
export function surest<D extends SourceDriver>(head: Buffer, filename: string, drivers: readonly D[]): D | null {
  let best: D | null = null;
  let highest = 0;
  for (const driver of drivers) {
    const score = driver.probe(head, filename);
    if (score <= highest) continue;
    best = driver;
    highest = score;
  }
  return best;
}

/** The driver of what lies in the storage. */
export async function probe(storage: Storage, drivers: readonly SourceDriver[]): Promise<SourceDriver> {
  const head = Buffer.alloc(Math.min(PROBE_SIZE, storage.size));
  await readPadded(storage, 0, head);
  const best = surest(head, storage.name, drivers);
  if (best === null) {
    throw new ImageError('unknown-format', 'Could not determine image format: No compatible driver found', {
      file: storage.name,
    });
  }
  return best;
}
