import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { encodeQedHeader, Feature, type QedHeader } from '../../layouts/qed/index.ts';
import { inContext } from '../../sources/context.ts';
import { readQedHead } from '../../sources/qed/head.ts';
import type { Storage } from '../../storage/storage.ts';
import type { CheckReport, CheckRequest } from '../checks.ts';
import { walkQed } from './walk.ts';

const traceCheck = tracePoint('qed_check');

/**
 * Checks a QED image, and repairs what can be told: entries that point nowhere. QEMU does so for `leaks` as well as for
 * `all`, and takes no leak back. The need-check bit goes where nothing is wrong any more; QEMU clears it also where
 * clusters are used twice, and whoever writes to one then changes the other.
 */
export async function checkQed({ storage, repair }: CheckRequest): Promise<CheckReport> {
  try {
    const { header } = await readQedHead(storage);
    const fix = repair !== null;
    if (fix && header.autoclear !== 0n) await writeHeader(storage, { ...header, autoclear: 0n });
    const found = await walkQed(storage, header, fix);
    if (traceCheck.enabled) traceCheck.emit({ file: storage.name, ...found });
    const corruptions = found.wrong + found.shared;
    if (found.fixed > 0) await storage.flush();
    if (fix && corruptions === 0) await clearNeedCheck(storage, { ...header, autoclear: 0n });
    return {
      checkErrors: 0,
      corruptions,
      corruptionsFixed: found.fixed,
      leaks: found.leaks,
      leaksFixed: 0,
      totalClusters: Math.ceil(header.size / header.clusterSize),
      allocatedClusters: found.allocated,
      fragmentedClusters: found.fragmented,
    };
  } catch (error) {
    throw inContext(error, storage.name, 'qed');
  }
}

/**
 * What the need-check bit asks of whoever opens the image for writing (qed_spec.txt, "Consistency checking"). An image
 * with clusters that are used twice is refused. All is looked at before anything is changed. The bit is cleared at the
 * end.
 */
export async function repairQed(storage: Storage, header: QedHeader): Promise<void> {
  const { wrong, shared } = await walkQed(storage, header, false);
  if (traceCheck.enabled) traceCheck.emit({ file: storage.name, wrong, shared });
  if (shared > 0) {
    throw new ImageError('corrupt', 'Clusters of the QED image are used twice; it cannot be opened read/write', {
      file: storage.name,
      format: 'qed',
    });
  }
  if (wrong > 0) await walkQed(storage, header, true);
  await storage.flush();
  await clearNeedCheck(storage, header);
}

/** In the header, and in its bytes. */
async function clearNeedCheck(storage: Storage, header: QedHeader): Promise<void> {
  if ((header.features & Feature.needCheck) === 0n) return;
  header.features &= ~Feature.needCheck;
  await writeHeader(storage, header);
}

async function writeHeader(storage: Storage, header: QedHeader): Promise<void> {
  await storage.write(0, encodeQedHeader(header));
  await storage.flush();
}
