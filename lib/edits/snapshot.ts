import { ImageError } from '../core/errors.ts';
import type { Secrets } from '../crypto/secrets.ts';
import type { Driver, SnapshotEditor } from '../formats/driver.ts';
import { drivers as allDrivers } from '../formats/index.ts';
import { targetRequest } from '../formats/open-target.ts';
import { type NodeSpec, parseFilename } from '../sources/filename.ts';
import type { ImplicitPolicy } from '../sources/gate.ts';
import { openImage } from '../sources/open.ts';
import type { SnapshotInfo } from '../sources/source.ts';
import type { CacheMode } from '../storage/storage.ts';

export interface SnapshotOptions {
  /** A filename, or a node. */
  image: NodeSpec | string;
  /** Driver name; null or absent: as the node says, else probed. */
  format?: string | null;
  /** Default `writeback`. */
  cache?: CacheMode;
  drivers?: readonly Driver[];
  /** Whether files that images refer to may be opened. */
  implicit?: ImplicitPolicy;
  /** What `key-secret` options of the images name. */
  secrets?: Secrets;
}

/** The operation of errors about snapshots, as opposed to those of opening the image. */
export const SNAPSHOT_OPERATION = 'snapshot';

/** The internal snapshots of an image, in the order in which they are in it: none where the format has no such thing. */
export async function snapshots(
  options: SnapshotOptions & {
    /** Open an image that another process writes to. */
    forceShare?: boolean;
  },
): Promise<readonly SnapshotInfo[]> {
  const { image, format, cache, drivers = allDrivers(), implicit, secrets, forceShare } = options;
  const opened = await openImage(image, { drivers, format, cache, implicit, secrets, forceShare });
  try {
    return (await opened.source.describe()).snapshots ?? [];
  } finally {
    await opened.close();
  }
}

/**
 * Takes a snapshot of the disk as it is; several may have one name. Rejects with an ImageError, of operation `snapshot` unless the image
 * can't be opened; `unsupported` where the format has no snapshots.
 */
export function createSnapshot(name: string, options: SnapshotOptions): Promise<void> {
  return withEditor(options, (editor) => required(editor).create(name));
}

/**
 * Makes the disk what it was when the snapshot was taken, its size included; what it was since then is lost, unless another snapshot has
 * it. The id goes before the name. Errors as createSnapshot's; `missing` where there is no such snapshot.
 */
export function applySnapshot(idOrName: string, options: SnapshotOptions): Promise<void> {
  return withEditor(options, (editor) => required(editor).apply(idOrName));
}

/** Deletes the first snapshot of that name, as qemu-img chooses it: ids don't count. Errors as applySnapshot's. */
export function deleteSnapshot(name: string, options: SnapshotOptions): Promise<void> {
  return withEditor(options, async (editor) => {
    const found = editor === null ? undefined : (await editor.list()).find((each) => each.name === name);
    if (found === undefined) throw new ImageError('missing', 'snapshot not found');
    await required(editor).delete({ id: found.id, name });
  });
}

function required(editor: SnapshotEditor | null): SnapshotEditor {
  if (editor !== null) return editor;
  throw new ImageError('unsupported', 'Block driver does not support snapshots', { code: 'ENOTSUP' });
}

async function withEditor(
  options: SnapshotOptions,
  work: (editor: SnapshotEditor | null) => Promise<void>,
): Promise<void> {
  const { image, format, cache = 'writeback', drivers = allDrivers(), implicit, secrets } = options;
  const node = typeof image === 'string' ? parseFilename(image) : image;
  const opened = await openImage(node, { drivers, format, cache, implicit, secrets, writable: true });
  try {
    const driver = drivers.find(({ name }) => name === opened.driver.name);
    const editor = await driver?.openSnapshots?.(targetRequest(opened, { cache, implicit, secrets }));
    await inOperation(opened.filename, () => work(editor ?? null)).finally(() => editor?.close());
  } finally {
    await opened.close();
  }
}

async function inOperation(filename: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    const { kind, message, file = filename, format, offset, code } = error;
    throw new ImageError(kind, message, { file, format, offset, code, operation: SNAPSHOT_OPERATION, cause: error });
  }
}
