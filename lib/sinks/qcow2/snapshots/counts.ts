import { ImageError } from '../../../core/errors.ts';
import type { Page } from '../../pages.ts';
import type { Qcow2Image } from '../image.ts';
import { type ClusterRuns, countOf, firstOf } from './runs.ts';

/** Clusters that lie together, under one refcount block, and have the same refcount. */
export interface Stretch {
  page: Page;
  first: number;
  clusters: number;
  /** At least one. */
  count: number;
}

/**
 * Calls `visit` for all clusters of the runs, ascending, so that each refcount block comes once. `visit` may change the refcounts that
 * it is shown.
 * @param uncounted called instead for a cluster whose refcount is zero; by default that is `corrupt`
 */
export async function eachStretch(
  image: Qcow2Image,
  runs: ClusterRuns,
  visit: (stretch: Stretch) => void,
  uncounted = refuseUncounted,
): Promise<void> {
  const { blocks } = image.refcounts;
  const { refcountsPerBlock } = image.geometry;
  let page: Page | null = null;
  let blockEnd = 0;
  for (const run of runs.ascending()) {
    const end = firstOf(run) + countOf(run);
    for (let first = firstOf(run); first < end; ) {
      if (first >= blockEnd || first < blockEnd - refcountsPerBlock) {
        page = await blocks.at(first);
        blockEnd = blocks.endOf(first);
      }
      const count = page === null ? 0 : blocks.count(page, first);
      if (page === null || count === 0) {
        uncounted(image, first);
        first += 1;
        continue;
      }
      const clusters = blocks.sameCounts(page, first, Math.min(end, blockEnd) - first);
      visit({ page, first, clusters, count });
      first += clusters;
    }
  }
}

function refuseUncounted({ storage, geometry }: Qcow2Image, cluster: number): void {
  throw new ImageError('corrupt', 'A cluster in use has no reference count', {
    file: storage.name,
    format: 'qcow2',
    offset: cluster * geometry.clusterSize,
  });
}
