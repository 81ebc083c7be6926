import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  BAT_ENTRY_BYTES,
  encodeParallelsHeader,
  HEADER_BYTES,
  InUse,
  type ParallelsGeometry,
  type ParallelsHeader,
  parallelsGeometry,
  readBatEntry,
  SECTOR,
  UNALLOCATED,
  writeBatEntry,
} from '../../layouts/parallels/index.ts';
import { inContext } from '../../sources/context.ts';
import { hasBindingFeature } from '../../sources/parallels/extension.ts';
import { readParallelsHeader } from '../../sources/parallels/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { type CheckReport, type CheckRequest, cleanReport } from '../checks.ts';

const traceCheck = tracePoint('parallels_check');

/** The BAT is looked through in pieces of this many bytes. */
const PIECE_BYTES = 1024 * 1024;

/**
 * Checks a Parallels image as QEMU does: whether it was closed, whether its clusters lie in the file, and whether the
 * file goes on behind the last of them. QEMU repairs clusters and the mark of an open image for `all`, space at the end
 * for `leaks` too.
 */
export async function checkParallels(request: CheckRequest): Promise<CheckReport> {
  const { storage } = request;
  try {
    const header = await readParallelsHeader(storage);
    const check = new Check(request, header);
    await check.run();
    if (traceCheck.enabled) traceCheck.emit({ file: storage.name, ...check.report });
    return check.report;
  } catch (error) {
    throw inContext(error, storage.name, 'parallels');
  }
}

class Check {
  readonly report: CheckReport & { allocatedClusters: number; fragmentedClusters: number };
  readonly #storage: Storage;
  readonly #header: ParallelsHeader;
  readonly #geometry: ParallelsGeometry;
  readonly #fix: { leaks: boolean; errors: boolean };
  readonly #tell: (line: string) => void;
  /** QEMU counts the bytes of a file in sectors. */
  readonly #size: number;
  /** Host offset of the last cluster. */
  #highest = 0;
  /** What makes entries point into space that is new to the file is gone. */
  #mayGrow = true;

  constructor({ storage, repair, report }: CheckRequest, header: ParallelsHeader) {
    this.#storage = storage;
    this.#header = header;
    this.#geometry = parallelsGeometry(header);
    this.#fix = { leaks: repair !== null, errors: repair === 'all' };
    this.#tell = report;
    this.#size = Math.ceil(storage.size / SECTOR) * SECTOR;
    this.report = { ...cleanReport(), totalClusters: header.entries, allocatedClusters: 0, fragmentedClusters: 0 };
  }

  async run(): Promise<void> {
    const wasOpen = this.#header.inUse === InUse.yes;
    if (wasOpen) this.#count(this.#fix.errors, 'image was not closed correctly');
    await this.#checkClusters();
    const end = this.#highest + this.#geometry.clusterSize;
    this.report.imageEndOffset = end;
    // Where no cluster is allocated, QEMU's end may lie inside the BAT: it calls a new image of a large disk leaking.
    const { batEnd, dataStart } = this.#geometry;
    await this.#checkEnd(Math.max(end, alignUp(batEnd, SECTOR), Math.min(dataStart, this.#size)));
    if (wasOpen && this.#fix.errors) await this.#writeHeader({ inUse: InUse.no });
  }

  async #checkClusters(): Promise<void> {
    const { batEnd } = this.#geometry;
    const bytes = Math.min(batEnd, this.#storage.size) - HEADER_BYTES;
    const entries = Math.max(0, Math.floor(bytes / BAT_ENTRY_BYTES));
    const buffer = Buffer.alloc(PIECE_BYTES);
    let previous = 0;
    let changed = false;
    for (let first = 0; first < entries; first += PIECE_BYTES / BAT_ENTRY_BYTES) {
      const piece = buffer.subarray(0, Math.min(PIECE_BYTES, (entries - first) * BAT_ENTRY_BYTES));
      const at = HEADER_BYTES + first * BAT_ENTRY_BYTES;
      await this.#storage.read(at, piece);
      const found = this.#checkPiece(piece, first, previous);
      previous = found.previous;
      if (!found.changed) continue;
      await this.#storage.write(at, piece);
      changed = true;
    }
    // Nothing may point behind the end before the end is where it is.
    if (changed) await this.#storage.flush();
  }

  #checkPiece(piece: Buffer, first: number, before: number): { previous: number; changed: boolean } {
    const { clusterSize } = this.#geometry;
    let previous = before;
    let changed = false;
    for (let index = 0; index * BAT_ENTRY_BYTES < piece.length; index += 1) {
      const host = readBatEntry(piece, index, this.#geometry);
      if (host !== UNALLOCATED && host > this.#size && this.#isOutside(first + index)) {
        writeBatEntry(piece, index, UNALLOCATED, this.#geometry);
        changed = true;
        previous = 0;
        continue;
      }
      if (host !== UNALLOCATED) {
        this.report.allocatedClusters += 1;
        if (previous !== 0 && previous + clusterSize !== host) this.report.fragmentedClusters += 1;
        this.#highest = Math.max(this.#highest, host);
      }
      previous = host;
    }
    return { previous, changed };
  }

  /** Counts a cluster that is not in the file; true where its entry is to be cleared. */
  #isOutside(cluster: number): boolean {
    const { errors } = this.#fix;
    this.#count(errors, `cluster ${cluster} is outside image`);
    this.#mayGrow &&= errors;
    return errors;
  }

  #count(fix: boolean, what: string): void {
    this.#tell(`${fix ? 'Repairing' : 'ERROR'} ${what}`);
    if (fix) this.report.corruptionsFixed += 1;
    else this.report.corruptions += 1;
  }

  async #checkEnd(end: number): Promise<void> {
    const { leaks } = this.#fix;
    if (this.#size > end) {
      const clusters = Math.ceil((this.#size - end) / this.#geometry.clusterSize);
      this.#tell(`${leaks ? 'Repairing' : 'ERROR'} space leaked at the end of the image ${this.#size - end}`);
      if (leaks && (await this.#cut(end))) this.report.leaksFixed += clusters;
      else this.report.leaks += clusters;
    } else if (leaks && this.#mayGrow && this.#storage.size < end && !this.#storage.fixedSize) {
      // The last cluster is whole then, and reads as before.
      await this.#storage.truncate(end);
      await this.#storage.flush();
    }
  }

  /** Gives back what lies behind `end`; false for a device, which can't. */
  async #cut(end: number): Promise<boolean> {
    const storage = this.#storage;
    if (storage.fixedSize) return false;
    if (this.#header.extensionSector !== 0) await this.#dropExtension();
    await storage.truncate(end);
    await storage.flush();
    return true;
  }

  /** A Format Extension is no cluster of the BAT, and goes with what else is behind. QEMU ignores it when it writes. */
  async #dropExtension(): Promise<void> {
    if (await hasBindingFeature(this.#storage, this.#header)) {
      throw new ImageError('unsupported', 'The Format Extension has features that a writer must keep up to date');
    }
    await this.#writeHeader({ extensionSector: 0 });
  }

  async #writeHeader(change: Partial<ParallelsHeader>): Promise<void> {
    Object.assign(this.#header, change);
    await this.#storage.flush();
    await this.#storage.write(0, encodeParallelsHeader(this.#header));
    await this.#storage.flush();
  }
}
