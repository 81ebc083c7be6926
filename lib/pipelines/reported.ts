import { type Extent, ExtentBatch } from '../core/extent.ts';
import type { Source } from '../sources/source.ts';

/**
 * The extent as qemu-img tells it: of a layer whose format has no block status there (Source.opaque), all is data that
 * lies nowhere in particular.
 */
export function asReported(each: Extent): Extent {
  if ((each.layer as Partial<Source> | null)?.opaque !== true) return each;
  return { ...each, kind: 'data', host: null, hostOffset: -1, compressed: false, hollow: false };
}

/** `asReported` for all extents of a walk. */
export async function* reported(batches: AsyncIterable<ExtentBatch>): AsyncGenerator<ExtentBatch, void, void> {
  for await (const batch of batches) yield new ExtentBatch(batch.extents.map(asReported));
}
