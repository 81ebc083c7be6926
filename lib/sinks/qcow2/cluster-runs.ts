import type { Extent, ExtentKind } from '../../core/extent.ts';
import type { ExtentPlan } from '../target.ts';

/** Neighbouring guest clusters that are stored alike. */
export interface ClusterRun {
  /** Index of the first guest cluster. */
  first: number;
  count: number;
  /** `none`: no entry. */
  kind: 'data' | 'zero' | 'none';
}

export interface ClusterRules {
  clusterSize: number;
  /** What is unallocated comes from a backing file: it differs from zeros. */
  hasBacking: boolean;
  /** Zero clusters can be told as such (v3). */
  zeroClusters: boolean;
  /** Every cluster is stored (`preallocation=metadata`). */
  allData: boolean;
}

const BIT: Readonly<Record<ExtentKind, number>> = { data: 1, zero: 2, unallocated: 4 };

/**
 * A plan's extents as runs of whole clusters, ascending, in the lists that the plan comes in. A cluster that is
 * partly data is data; so is one that is zeros in part only over a backing file.
 */
export async function* clusterRuns(plan: ExtentPlan, rules: ClusterRules): AsyncGenerator<ClusterRun[], void, void> {
  const merger = new RunMerger(rules);
  for await (const extents of plan()) {
    for (const each of extents) merger.add(each);
    const runs = merger.take();
    if (runs.length > 0) yield runs;
  }
  const runs = merger.finish();
  if (runs.length > 0) yield runs;
}

class RunMerger {
  readonly #rules: ClusterRules;
  #runs: ClusterRun[] = [];
  /** The cluster that the last extent ended in, and the kinds seen in it. */
  #cluster = -1;
  #kinds = 0;

  constructor(rules: ClusterRules) {
    this.#rules = rules;
  }

  add({ offset, length, kind }: Extent): void {
    const { clusterSize } = this.#rules;
    const first = Math.floor(offset / clusterSize);
    const last = Math.floor((offset + length - 1) / clusterSize);
    if (first !== this.#cluster) this.#close();
    this.#cluster = first;
    this.#kinds |= BIT[kind];
    if (last === first) return;
    this.#close();
    if (last - first > 1) this.#push(first + 1, last - first - 1, BIT[kind]);
    this.#cluster = last;
    this.#kinds = BIT[kind];
  }

  /** The runs that can't grow any more. */
  take(): ClusterRun[] {
    const open = this.#runs.pop();
    const done = this.#runs;
    this.#runs = open === undefined ? [] : [open];
    return done;
  }

  finish(): ClusterRun[] {
    this.#close();
    return this.#runs;
  }

  #close(): void {
    if (this.#cluster >= 0) this.#push(this.#cluster, 1, this.#kinds);
    this.#cluster = -1;
    this.#kinds = 0;
  }

  #push(first: number, count: number, kinds: number): void {
    const kind = this.#kindOf(kinds);
    const last = this.#runs.at(-1);
    if (last !== undefined && last.kind === kind && last.first + last.count === first) last.count += count;
    else this.#runs.push({ first, count, kind });
  }

  #kindOf(kinds: number): ClusterRun['kind'] {
    const { hasBacking, zeroClusters, allData } = this.#rules;
    if (allData || (kinds & BIT.data) !== 0) return 'data';
    if (!hasBacking || kinds === BIT.unallocated) return 'none';
    return kinds === BIT.zero && zeroClusters ? 'zero' : 'data';
  }
}
