import { ImageError } from '../../../core/errors.ts';
import type { AnyOptionValues } from '../../../core/options.ts';
import { tracePoint } from '../../../core/trace.ts';
import {
  Autoclear,
  Compatible,
  ExtensionType,
  encodeFeatureNames,
  encodeHead,
  FEATURE_NAMES,
  type HeaderTail,
  type Qcow2Header,
  V2_HEADER_LENGTH,
  V3_HEADER_LENGTH,
} from '../../../layouts/qcow2/index.ts';
import { passphraseOf } from '../../../sources/encryption/node-options.ts';
import { inContext } from '../../../sources/qcow2/context.ts';
import { luksPlace } from '../../../sources/qcow2/encryption.ts';
import { amendLuks } from '../../encryption/luks.ts';
import type { Qcow2Image } from '../image.ts';
import { openQcow2Image, type Qcow2OpenRequest } from '../open.ts';
import { ownSource } from '../own-source.ts';
import { Qcow2Target } from '../target.ts';
import { expandZeroClusters } from './expand.ts';
import { type AmendPlan, planAmend } from './plan.ts';
import { changeRefcountWidth } from './refcount-width.ts';

const traceAmend = tracePoint('qcow2_amend');

export interface Qcow2AmendRequest extends Qcow2OpenRequest {
  /** Parsed by `qcow2AmendOptions`; only what was given. */
  values: AnyOptionValues;
  /** Key slots may be lost that were in use, and the last one. Default false. */
  force?: boolean;
  /** Part done, from 0 to 1. */
  onProgress?: (part: number) => void;
}

/**
 * Changes what an image was made with, and closes it. Everything is checked before the first change. Each step leaves a valid
 * image: what the new header says is true of the tables before it is written, in one write.
 */
export async function amendQcow2(request: Qcow2AmendRequest): Promise<void> {
  let image = await openQcow2Image(request);
  try {
    const plan = await planAmend(image, request.values);
    if (traceAmend.enabled) traceAmend.emit({ file: image.storage.name, version: plan.version, size: plan.size ?? -1 });
    // It checks what it was asked for before it changes anything; nothing else has been changed by then.
    if (plan.keySlots) await amendKeySlots(image, request);
    const features = changedFeatures(image, plan);
    if (isChange(image, features)) await writeHead(image, features);
    if (plan.refcountBits !== null) image = await withRefcountBits(image, plan.refcountBits, request);
    await amendTables(image, plan, request.onProgress);
  } catch (error) {
    if (image.external) await image.data.close().catch(() => {});
    await image.storage.close().catch(() => {});
    throw inContext(error, request.storage.name);
  }
}

async function amendKeySlots(image: Qcow2Image, request: Qcow2AmendRequest): Promise<void> {
  const { storage, values, secrets, options, force = false } = request;
  const at = luksPlace(image);
  if (at === null) return;
  await amendLuks({
    storage,
    at,
    values,
    prefix: 'encrypt.',
    secrets,
    passphrase: passphraseOf(options, secrets),
    force,
  });
}

/** Changes the width of the refcounts; returns the image opened anew. */
async function withRefcountBits(image: Qcow2Image, bits: number, request: Qcow2OpenRequest): Promise<Qcow2Image> {
  const old = await image.metadata.run(() => changeRefcountWidth(image, bits));
  if (image.external) await image.data.close();
  const changed = await openQcow2Image(request);
  await changed.metadata.run(async () => {
    for (const run of old) await changed.refcounts.takeBack(run);
    await changed.commit();
    await changed.storage.flush();
    for (const { offset, clusters } of old) {
      await changed.storage.discard(offset, clusters * changed.geometry.clusterSize);
    }
  });
  return changed;
}

/** What takes changes of the tables; closes the image. */
async function amendTables(image: Qcow2Image, plan: AmendPlan, onProgress?: (part: number) => void): Promise<void> {
  const target = new Qcow2Target(image, { source: ownSource(image), readsAsZero: false });
  try {
    await amend(image, target, plan, onProgress);
  } catch (error) {
    await target.abort().catch(() => {});
    throw error;
  }
  await target.close();
}

async function amend(
  image: Qcow2Image,
  target: Qcow2Target,
  plan: AmendPlan,
  onProgress: (part: number) => void = () => {},
): Promise<void> {
  const isDowngrade = plan.version < image.header.version;
  if (plan.size !== null) await target.truncate(plan.size);
  if (!isDowngrade) return;
  await expandZeroClusters(image, target, (done, tables) => onProgress(done / tables));
  await target.flush();
  // Releases are carried out by the commit after the one that they wait for.
  await target.flush();
  await writeHead(image, changedVersion(image, 2));
}

interface Head {
  header: Qcow2Header;
  tail: HeaderTail;
}

/** The header with everything that needs no change of the tables: version 3, flags, names. */
function changedFeatures(image: Qcow2Image, plan: AmendPlan): Head {
  const { header, tail } = plan.version > image.header.version ? changedVersion(image, 3) : image;
  let { extensions } = tail;
  if (plan.dataFile !== null) {
    const data = Buffer.from(plan.dataFile);
    extensions = extensions.map((each) => (each.type === ExtensionType.dataFile ? { ...each, data } : each));
  }
  return {
    header: {
      ...header,
      compatible: plan.lazyRefcounts
        ? header.compatible | Compatible.lazyRefcounts
        : header.compatible & ~Compatible.lazyRefcounts,
      autoclear: plan.clearRaw ? header.autoclear & ~Autoclear.rawDataFile : header.autoclear,
    },
    tail: { ...tail, extensions },
  };
}

/** The header in another version; names of features are told in version 3 only, where there is room. */
function changedVersion({ header, tail }: Head, version: 2 | 3): Head {
  const extensions = tail.extensions.filter(({ type }) => type !== ExtensionType.featureNames);
  const changed: Qcow2Header = {
    ...header,
    version,
    headerLength: version === 2 ? V2_HEADER_LENGTH : V3_HEADER_LENGTH,
    extra: Buffer.alloc(0),
    ...(version === 2 ? { incompatible: 0n, compatible: 0n, autoclear: 0n } : {}),
  };
  const names = { type: ExtensionType.featureNames, data: encodeFeatureNames(FEATURE_NAMES) };
  const named = { ...tail, extensions: [...extensions, names] };
  const fits = version === 3 && encodeHead({ ...changed }, named) !== null;
  return { header: changed, tail: fits ? named : { ...tail, extensions } };
}

function isChange(image: Qcow2Image, head: Head): boolean {
  const [old, changed] = [image, head].map(({ header, tail }) => encodeHead({ ...header }, tail));
  return old === null || changed === null || !old.equals(changed);
}

async function writeHead(image: Qcow2Image, { header, tail }: Head): Promise<void> {
  if (encodeHead({ ...header }, tail) === null) {
    throw new ImageError('no-space', 'No space left in the file header', { code: 'ENOSPC', operation: 'amend' });
  }
  await image.metadata.run(async () => {
    await image.commit();
    await image.storage.flush();
    const { version, headerLength, extra, incompatible, compatible } = header;
    const autoclear = header.autoclear & (Autoclear.bitmaps | Autoclear.rawDataFile);
    Object.assign(image.header, { version, headerLength, extra, incompatible, compatible, autoclear });
    Object.assign(image.tail, tail);
    await image.writeHeader();
    await image.storage.flush();
  });
}
