import { ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import type { Secrets } from '../crypto/secrets.ts';
import type { CheckReport, Driver } from '../formats/driver.ts';
import { drivers as allDrivers } from '../formats/index.ts';
import { type NodeSpec, parseNamed } from '../sources/filename.ts';
import { createGate, type ImplicitPolicy } from '../sources/gate.ts';
import { takeNodeOptions } from '../sources/node-options.ts';
import { type OpenedImage, openImage } from '../sources/open.ts';
import type { CacheMode } from '../storage/storage.ts';

export interface CheckOptions {
  /** A filename, or a node. */
  image: NodeSpec | string;
  /** Driver name; null or absent: as the node says, else probed. */
  format?: string | null;
  /** What may be repaired: `leaks` takes back what nothing refers to, `all` also what is wrong. Absent: nothing. */
  repair?: 'leaks' | 'all' | null;
  /** Default `writeback`. */
  cache?: CacheMode;
  /** Open an image that another process writes to. Not with `repair`. */
  forceShare?: boolean;
  drivers?: readonly Driver[];
  /** Whether files that images refer to may be opened. */
  implicit?: ImplicitPolicy;
  /** What `key-secret` options of the images name. */
  secrets?: Secrets;
  /** Told of every single finding and repair, one line without its end; `named`: qemu-img puts its name before it. */
  onFinding?: (line: string, named?: boolean) => void;
  /** Something was repaired; the image is now checked once more. */
  onRepaired?: (report: CheckReport) => void;
}

/** What is wrong with the image, after all repairs; the counts of what was repaired are those of the repair. */
export interface CheckResult extends CheckReport {
  /** Driver name. */
  format: string;
}

/** The operation of errors of the check itself, as opposed to those of opening the image. */
export const CHECK_OPERATION = 'check';

const traceCheck = tracePoint('image_check');

/**
 * Checks an image's own structure, and repairs it: `qemu-img check`. What is beneath it (backing files) is opened but
 * not checked. Rejects with an ImageError of operation `check` where the check can't be done (`unsupported` where the
 * format has none), of another operation where the image can't be opened.
 */
export async function check(options: CheckOptions): Promise<CheckResult> {
  const {
    image,
    repair = null,
    cache = 'writeback',
    drivers = allDrivers(),
    implicit,
    secrets,
    format,
    forceShare,
  } = options;
  const node = typeof image === 'string' ? parseNamed(image) : image;
  refuseSharedRepair(node, options);
  const writable = repair !== null;
  const opened = await openImage(node, {
    ...{ drivers, cache, implicit, secrets, format, forceShare, writable },
    metadataOnly: true,
    forCheck: true,
  });
  try {
    return await checkOpened(opened, drivers, (driver) => {
      const request = {
        storage: opened.storage,
        options: takeNodeOptions(node.options, { cache, writable }).options,
        cache,
        gate: createGate({ implicit, cache }),
        secrets,
        report: options.onFinding ?? (() => {}),
      };
      return checkAndRepair(driver, request, options);
    });
  } finally {
    await opened.close();
  }
}

function refuseSharedRepair({ filename }: NodeSpec, { repair, forceShare }: CheckOptions): void {
  if (!repair || forceShare !== true) return;
  const why = 'force-share=on can only be used with read-only images';
  throw new ImageError('invalid', `Could not open '${filename}': ${why}`, { file: filename, operation: 'open' });
}

type CheckingDriver = Driver & Required<Pick<Driver, 'check'>>;

async function checkOpened(
  { driver: { name }, filename }: OpenedImage,
  drivers: readonly Driver[],
  work: (driver: CheckingDriver) => Promise<CheckReport>,
): Promise<CheckResult> {
  const driver = drivers.find((each) => each.name === name);
  const context = { file: filename, format: name, operation: CHECK_OPERATION };
  if (driver?.check === undefined) {
    throw new ImageError('unsupported', 'This image format does not support checks', context);
  }
  try {
    return { format: name, ...(await work(driver as CheckingDriver)) };
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    const { kind, message, file = filename, offset, code } = error;
    throw new ImageError(kind, message, { ...context, file, offset, code, cause: error });
  }
}

type RequestBase = Omit<Parameters<CheckingDriver['check']>[0], 'repair' | 'writable'>;

async function checkAndRepair(
  driver: CheckingDriver,
  base: RequestBase,
  { repair = null, onRepaired }: CheckOptions,
): Promise<CheckReport> {
  const first = await driver.check({ ...base, repair, writable: repair !== null });
  const { corruptionsFixed, leaksFixed, corruptions, leaks } = first;
  if (traceCheck.enabled) {
    traceCheck.emit({ file: base.storage.name, corruptions, leaks, corruptionsFixed, leaksFixed });
  }
  if (corruptionsFixed === 0 && leaksFixed === 0) return first;
  onRepaired?.(first);
  const second = await driver.check({ ...base, repair: null, writable: false });
  return { ...second, corruptionsFixed, leaksFixed };
}
