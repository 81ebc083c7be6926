import { ImageError } from '../../../core/errors.ts';
import { tracePoint } from '../../../core/trace.ts';
import { inContext } from '../../../sources/qcow2/context.ts';
import { findSnapshot, snapshotInfo } from '../../../sources/qcow2/snapshots.ts';
import type { SnapshotInfo, SnapshotSelector } from '../../../sources/source.ts';
import type { Qcow2Image } from '../image.ts';
import { openQcow2Image, type Qcow2OpenRequest } from '../open.ts';
import { applySnapshot } from './apply.ts';
import { createSnapshot } from './create.ts';
import { deleteSnapshot } from './delete.ts';
import { readTable } from './table.ts';

/** Errors that come before anything was changed. */
const HARMLESS: readonly string[] = ['missing', 'refused', 'unsupported'];

const NO_SNAPSHOTS = 'Images with an external data file have no snapshots';

const traceSnapshot = tracePoint('qcow2_snapshot');

/** Opens an existing image to change its internal snapshots. Refuses what can't be written to. */
export async function openQcow2Snapshots(request: Qcow2OpenRequest): Promise<Qcow2SnapshotEditor> {
  return new Qcow2SnapshotEditor(await openQcow2Image(request));
}

/** Internal snapshots ("Snapshots"): see createSnapshot, applySnapshot and deleteSnapshot for the order of writes. */
export class Qcow2SnapshotEditor {
  readonly #image: Qcow2Image;
  #closing: Promise<void> | null = null;
  /** An operation stopped in the middle: what is in memory is not to be written any more. */
  #failed = false;

  constructor(image: Qcow2Image) {
    this.#image = image;
  }

  list(): Promise<readonly SnapshotInfo[]> {
    return this.#inContext(async () => {
      const { entries } = await readTable(this.#image);
      return entries.map((entry) => snapshotInfo(entry, this.#image.header));
    });
  }

  create(name: string): Promise<void> {
    return this.#change('create', name, () => createSnapshot(this.#image, name));
  }

  apply(idOrName: string): Promise<void> {
    return this.#change('apply', idOrName, async () => {
      const { entries } = await readTable(this.#image);
      await applySnapshot(this.#image, findSnapshot(entries, { idOrName }));
    });
  }

  delete(which: string | SnapshotSelector): Promise<void> {
    const selector = typeof which === 'string' ? { idOrName: which } : which;
    return this.#change('delete', JSON.stringify(selector), async () => {
      const table = await readTable(this.#image);
      await deleteSnapshot(this.#image, table, table.entries.indexOf(findSnapshot(table.entries, selector)));
    });
  }

  async #change(operation: string, snapshot: string, work: () => Promise<void>): Promise<void> {
    const { external, storage } = this.#image;
    if (traceSnapshot.enabled) traceSnapshot.emit({ file: storage.name, operation, snapshot });
    await this.#inContext(async () => {
      if (this.#failed || this.#closing !== null) throw new ImageError('io', 'The image is closed');
      if (external) {
        const why = operation === 'apply' ? 'Failed to load snapshot: Operation not supported' : NO_SNAPSHOTS;
        throw new ImageError('unsupported', why, {
          code: 'ENOTSUP',
          operation: `snapshot ${operation}`,
        });
      }
      await this.#image.metadata.run(work).catch((error) => {
        this.#failed = !(error instanceof ImageError && HARMLESS.includes(error.kind));
        throw error;
      });
    });
  }

  async #inContext<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw inContext(error, this.#image.storage.name);
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { storage, data, external } = this.#image;
    try {
      if (external) await data.close();
    } finally {
      await storage.close();
    }
  }
}
