import { ensure } from '../../core/errors.ts';
import { isZero } from '../../core/pool.ts';
import type { Page } from '../pages.ts';
import type { Qcow2Image } from './image.ts';

export interface Corrections {
  /** Host clusters of the file; all further ones are free. */
  clusters: number;
  /** What the refcount of a cluster must be. */
  countOf: (cluster: number) => number;
}

/**
 * Sets every refcount to what it must be, making blocks that are missing behind the end of the file: only
 * there can nothing be in use that the refcounts don't know of yet. Under the metadata lock.
 * @returns how many were wrong
 */
export async function correctRefcounts(image: Qcow2Image, corrections: Corrections): Promise<number> {
  const { refcounts, geometry } = image;
  const { blocks } = refcounts;
  const end = Math.max(corrections.clusters, (blocks.table.length / 8) * geometry.refcountsPerBlock);
  const missing: number[] = [];
  let changed = 0;
  for (let first = 0; first < end; first = blocks.endOf(first)) {
    const page = await blocks.at(first);
    if (page !== null) changed += correctBlock(image, page, { ...corrections, first, to: blocks.endOf(first) });
    else if (isCounted(corrections, first, blocks.endOf(first))) missing.push(first);
  }
  refcounts.searchFrom(corrections.clusters);
  for (const first of missing) {
    const page = await makeBlock(image, first);
    const to = Math.min(corrections.clusters, blocks.endOf(first));
    changed += correctBlock(image, page, { ...corrections, first, to });
  }
  refcounts.searchFrom(0);
  return changed;
}

function isCounted({ clusters, countOf }: Corrections, first: number, to: number): boolean {
  for (let cluster = first; cluster < Math.min(clusters, to); cluster += 1) if (countOf(cluster) > 0) return true;
  return false;
}

async function makeBlock(image: Qcow2Image, first: number): Promise<Page> {
  const { refcounts, geometry } = image;
  // What was made for an earlier one may have brought this one along.
  const there = await refcounts.blocks.at(first);
  if (there !== null) return there;
  const place = await refcounts.allocate(1);
  const made = await refcounts.blocks.at(first);
  if (made === null) return refcounts.blocks.make(first, place.offset / geometry.clusterSize);
  await refcounts.takeBack(place);
  return made;
}

/** Corrects the counts of clusters [first, to), which `page` holds. */
function correctBlock(
  { refcounts, storage, geometry }: Qcow2Image,
  page: Page,
  { clusters, countOf, first, to }: Corrections & { first: number; to: number },
): number {
  let changed = 0;
  // Blocks far behind the end of a sparse file cost no more than a look.
  if (first >= clusters && isZero(page.bytes)) return 0;
  for (let cluster = first; cluster < to; cluster += 1) {
    const count = countOf(cluster);
    if (refcounts.blocks.count(page, cluster) === count) continue;
    ensure(count <= refcounts.max, 'A cluster has more references than its reference count can hold', {
      file: storage.name,
      format: 'qcow2',
      offset: cluster * geometry.clusterSize,
    });
    refcounts.blocks.setCount(page, cluster, count);
    changed += 1;
  }
  return changed;
}
