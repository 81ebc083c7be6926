import { ImageError } from '../../../core/errors.ts';
import { tracePoint } from '../../../core/trace.ts';
import { inContext } from '../../../sources/qcow2/context.ts';
import { openData } from '../../../sources/qcow2/data-file.ts';
import { type Qcow2Head, readHead } from '../../../sources/qcow2/head.ts';
import type { Storage } from '../../../storage/storage.ts';
import type { CheckReport, CheckRequest } from '../../checks.ts';
import { hasStaleBitmaps } from './bitmaps.ts';
import { type Comparison, RefcountComparison } from './compare.ts';
import { CheckedImage, type Findings, type Fix, NO_FIX, noFindings } from './context.ts';
import { CopiedCheck } from './copied.ts';
import { clearDamageBits, forgetBitmaps, rewriteSnapshots } from './mend.ts';
import { rebuildRefcounts } from './rebuild.ts';
import { countReferences, type References } from './references.ts';
import { readSnapshotTable, type SnapshotTable } from './snapshots.ts';

const traceCheck = tracePoint('qcow2_check');

/**
 * Checks a qcow2 image: counts all references to its clusters and compares them with its refcounts, and looks at
 * everything on the way. Repairs in an order in which a kill leaves nothing worse than before: what is made anew is
 * complete before something refers to it, and what is freed is referred to by nothing.
 */
export async function checkQcow2(request: CheckRequest): Promise<CheckReport> {
  try {
    return await new Check(await openChecked(request), fixOf(request.repair)).run();
  } catch (error) {
    throw inContext(error, request.storage.name);
  }
}

/**
 * Makes an image usable again whose dirty bit says that refcounts and copied flags were not written ("incompatible features", bit 0).
 * `head` is told of what the header says afterwards. `corrupt` where something is left that is wrong: the image is then for a check.
 */
export async function repairDirtyImage(storage: Storage, head: Qcow2Head): Promise<void> {
  const image = new CheckedImage(storage, head, () => {});
  await image.readRefcountTable();
  if (await isBeyondRepair(image)) throw unrepairable(storage);
  const { corruptions, checkErrors } = await new Check(image, fixOf('all')).run();
  if (corruptions + checkErrors > 0) throw unrepairable(storage);
}

/**
 * Whether tables are wrong that the dirty bit does not speak of: such an image stays as it is. (Where the refcount structure itself
 * is wrong, what its clusters hold can't be told before it is made anew.)
 */
async function isBeyondRepair(image: CheckedImage): Promise<boolean> {
  const snapshots = await readSnapshotTable(image, NO_FIX);
  const { rebuild } = await countReferences(image, snapshots, NO_FIX);
  const { corruptions, checkErrors } = image.findings;
  image.findings = noFindings();
  return !rebuild && corruptions + checkErrors + snapshots.findings.corruptions > 0;
}

function unrepairable({ name }: Storage): ImageError {
  return new ImageError('corrupt', 'Could not repair dirty image: Input/output error', { file: name });
}

function fixOf(repair: CheckRequest['repair']): Fix {
  return { leaks: repair !== null, errors: repair === 'all' };
}

async function openChecked(request: CheckRequest): Promise<CheckedImage> {
  const { storage } = request;
  const head = await readHead(storage, { forCheck: true });
  // Nothing in the data file is checked, but an image without it is not whole.
  const data = await openData(request, head);
  if (data !== storage) await data.close();
  const image = new CheckedImage(storage, head, request.report);
  await image.readRefcountTable();
  return image;
}

class Check {
  readonly #image: CheckedImage;
  readonly #fix: Fix;
  readonly #repairs: boolean;
  /** Clusters that are freed can't hold anything that somebody might miss. */
  #mayDiscard = false;
  /** What is wrong in the snapshot table, and stays so: apart, since it says nothing about copied flags. */
  #unmended = 0;

  constructor(image: CheckedImage, fix: Fix) {
    this.#image = image;
    this.#fix = fix;
    this.#repairs = fix.leaks || fix.errors;
  }

  async run(): Promise<CheckReport> {
    const image = this.#image;
    await this.#checkBitmaps();
    const snapshots = await readSnapshotTable(image, this.#fix);
    const comparison = await this.#checkReferences(snapshots);
    const { findings } = image;
    findings.corruptions += this.#unmended;
    if (this.#repairs) {
      if (findings.checkErrors === 0 && findings.corruptions === 0) await clearDamageBits(image);
      await image.storage.flush();
    }
    const { header, geometry } = image;
    if (traceCheck.enabled) traceCheck.emit({ file: image.storage.name, clusters: image.clusters, ...findings });
    return {
      ...findings,
      ...image.fragmentation,
      imageEndOffset: (comparison.highest + 1) * geometry.clusterSize,
      totalClusters: Math.ceil(header.size / geometry.clusterSize),
    };
  }

  async #checkBitmaps(): Promise<void> {
    if (!hasStaleBitmaps(this.#image)) return;
    this.#image.report(
      'warning: a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent',
      true,
    );
    if (this.#repairs) await forgetBitmaps(this.#image);
  }

  async #checkReferences(snapshots: SnapshotTable): Promise<Comparison> {
    const image = this.#image;
    const references = await countReferences(image, snapshots, this.#fix);
    // A snapshot that the table does not tell may still have the clusters that seem free.
    this.#mayDiscard = snapshots.findings.corruptions === 0 && image.findings.corruptions === 0;
    const before = { ...image.findings };
    const first = await this.#compare(references, NO_FIX, !this.#repairs);
    const rebuild = references.rebuild || first.rebuild;
    let last = first;
    if (rebuild && this.#fix.errors) last = await this.#rebuild(references, snapshots, before);
    else if (rebuild && this.#repairs) this.#needsRebuild();
    else if (this.#repairs && first.differs) {
      image.findings = before;
      // L2 entries that were corrected above must not come back to clusters that are free by then.
      await image.storage.flush();
      last = await this.#compare(references, this.#fix, true);
    }
    await this.#mendSnapshots(snapshots, references);
    await this.#checkCopied(references, last);
    return last;
  }

  #compare({ counts }: References, fix: Fix, adopt: boolean): Promise<Comparison> {
    return new RefcountComparison(this.#image, counts, { fix, adopt, discard: this.#mayDiscard }).run();
  }

  #needsRebuild(): never {
    this.#image.report('ERROR need to rebuild refcount structures');
    throw new ImageError('corrupt', 'Input/output error', { file: this.#image.storage.name, format: 'qcow2' });
  }

  /** Replaces the refcount structure, and counts once more what is wrong beside it. */
  async #rebuild(references: References, snapshots: SnapshotTable, before: Findings): Promise<Comparison> {
    const image = this.#image;
    image.report('Rebuilding refcount structure');
    const found = image.findings;
    // Where tables could not be read, what seems free may be what they refer to.
    await rebuildRefcounts(image, references.counts, before.corruptions === 0 && before.checkErrors === 0);
    image.findings = noFindings();
    const again = await countReferences(image, snapshots, NO_FIX);
    const left = image.findings;
    image.findings = { ...left };
    Object.assign(references, again);
    // What is taken back now is the old structure: no leak of the image as it was.
    const comparison = await this.#compare(references, { leaks: true, errors: false }, true);
    if (again.rebuild || comparison.rebuild) {
      throw new ImageError('corrupt', 'ERROR rebuilt refcount structure is still broken', { file: image.storage.name });
    }
    image.findings = {
      ...left,
      corruptionsFixed: found.corruptionsFixed + Math.max(0, found.corruptions - left.corruptions),
      leaksFixed: found.leaksFixed + Math.max(0, found.leaks - left.leaks),
    };
    return comparison;
  }

  async #checkCopied({ counts, tables, doubtful, uncopied }: References, comparison: Comparison): Promise<void> {
    const image = this.#image;
    const { checkErrors, corruptions, leaks } = image.findings;
    // Each entry has its flag, and no cluster two references: nothing can be wrong.
    if (!uncopied && !counts.shared && !comparison.differs && checkErrors === 0 && corruptions === 0) return;
    if (this.#repairs) await image.storage.flush();
    const clean = checkErrors === 0 && corruptions === 0 && leaks === 0;
    const repair = this.#fix.errors || (this.#fix.leaks && clean);
    await new CopiedCheck(image, {
      refcounts: counts,
      tables,
      doubtful,
      unreadable: comparison.unreadable,
      repair,
    }).run();
  }

  async #mendSnapshots(snapshots: SnapshotTable, { counts }: References): Promise<void> {
    const image = this.#image;
    const { corruptions } = snapshots.findings;
    if (corruptions === 0) return;
    const { checkErrors, corruptions: others, leaks } = image.findings;
    if (!this.#fix.errors || image.external || checkErrors + others + leaks > 0) {
      this.#unmended = corruptions;
      return;
    }
    await image.storage.flush();
    await rewriteSnapshots(image, snapshots, counts);
    image.findings.corruptionsFixed += corruptions;
  }
}
