import { ImageError } from '../../core/errors.ts';
import {
  ALL_SUBCLUSTERS,
  COMPRESSED_SECTOR,
  type CompressionType,
  CryptMethod,
  checkTables,
  decodeCompressed,
  decodeHeader,
  decodeL1Entry,
  decodeSubclusters,
  decodeTail,
  entryOffset,
  geometryOf,
  Incompatible,
  isCompressed,
  l1EntriesFor,
  l2Reserved,
  type Qcow2Geometry,
  type Qcow2Header,
  ZERO_LOW,
} from '../../layouts/qcow2/index.ts';
import { MAX_HEAD, type PipeInput } from '../../storage/pipe-input.ts';
import { ForwardImpossible } from '../forward.ts';

/** One step through the guest disk: `zero`, or bytes of the pipe. */
export interface ForwardStep {
  kind: 'zero' | 'plain' | 'compressed';
  /** Guest bytes; whole clusters, also at the disk's end. */
  length: number;
  /** Where the bytes lie in the pipe; ascending over all steps that have some. */
  host: number;
  /** Bytes there. */
  hostLength: number;
}

/** What the head of a pipe says of a qcow2 image whose data follow in guest order. */
export interface ForwardImage {
  size: number;
  geometry: Qcow2Geometry;
  compressionType: CompressionType;
  /** The L2 table of each L1 entry; null where there is none. */
  tables: (Buffer | null)[];
  /** Bytes that the file has at least: behind its refcount table. */
  minimumSize: number;
}

/** Incompatible features that change nothing here. */
const HARMLESS = Incompatible.compression | Incompatible.extendedL2 | Incompatible.dirty;

/**
 * Looks at the head of a pipe, without consuming it, for all metadata and for the order of the data. Whatever is
 * not as it must be, damage too, is ForwardImpossible: the image is then opened from a file, which says the rest.
 */
export async function planForward(input: PipeInput): Promise<ForwardImage> {
  try {
    const image = await readMetadata(input);
    checkOrder(image);
    return image;
  } catch (error) {
    if (error instanceof ImageError && error.kind === 'corrupt') throw new ForwardImpossible(error.message);
    throw error;
  }
}

async function readMetadata(input: PipeInput): Promise<ForwardImage> {
  const header = decodeHeader(await input.peek(4096));
  const geometry = geometryOf(header);
  const head = await input.peek(geometry.clusterSize);
  checkTables(header);
  if (header.cryptMethod !== CryptMethod.none) throw new ForwardImpossible('it is encrypted');
  if ((header.incompatible & ~HARMLESS) !== 0n) throw new ForwardImpossible('it has features of another kind');
  if (decodeTail(head, header).backingFile !== null) throw new ForwardImpossible('it has a backing file');
  return {
    size: header.size,
    geometry,
    compressionType: header.compressionType,
    tables: await readTables(input, header, geometry),
    minimumSize: header.refcountTableOffset + header.refcountTableClusters * geometry.clusterSize,
  };
}

async function readTables(input: PipeInput, header: Qcow2Header, geometry: Qcow2Geometry) {
  const entries = l1EntriesFor(header.size, geometry);
  const l1 = Buffer.from(await peekAt(input, header.l1Offset, entries * 8));
  const tables: (Buffer | null)[] = [];
  let held = 0;
  for (let index = 0; index < entries; index += 1) {
    const { offset } = decodeL1Entry(l1, index * 8, geometry.clusterSize);
    // Many entries may name one table: memory is bounded by what is held, not by what the pipe has brought.
    held += offset === 0 ? 0 : geometry.clusterSize;
    if (held > MAX_HEAD) throw new ForwardImpossible('it has too many tables');
    tables.push(offset === 0 ? null : Buffer.from(await peekAt(input, offset, geometry.clusterSize)));
  }
  return tables;
}

async function peekAt(input: PipeInput, offset: number, length: number): Promise<Buffer> {
  if (offset + length > MAX_HEAD) throw new ForwardImpossible('its tables do not come before its data');
  const head = await input.peek(offset + length);
  if (head.length < offset + length) throw new ForwardImpossible('it is cut off');
  return head.subarray(offset);
}

function checkOrder(image: ForwardImage): void {
  let position = 0;
  for (const { kind, host, hostLength } of steps(image)) {
    if (kind === 'zero') continue;
    if (host < position) throw new ForwardImpossible('its data are not in guest order');
    // A compressed cluster may share its last sector with the next one.
    position = kind === 'plain' ? host + hostLength : host + Math.max(1, hostLength - COMPRESSED_SECTOR);
  }
}

/** Walks the tables: steps as long as they can be, except that compressed clusters come one by one. */
export function* steps({ geometry, tables }: ForwardImage): Generator<ForwardStep, void, void> {
  let last: ForwardStep | null = null;
  for (const table of tables) {
    const entries = table === null ? 1 : geometry.l2Entries;
    for (let index = 0; index < entries; index += 1) {
      const step: ForwardStep = table === null ? zeros(geometry.l2Coverage) : stepOf(table, index, geometry);
      if (last !== null && joins(last, step)) {
        last.length += step.length;
        last.hostLength += step.hostLength;
      } else {
        if (last !== null) yield last;
        last = step;
      }
    }
  }
  if (last !== null) yield last;
}

function joins(last: ForwardStep, step: ForwardStep): boolean {
  if (last.kind !== step.kind || step.kind === 'compressed') return false;
  return step.kind === 'zero' || last.host + last.hostLength === step.host;
}

function zeros(length: number): ForwardStep {
  return { kind: 'zero', length, host: 0, hostLength: 0 };
}

function stepOf(table: Buffer, index: number, geometry: Qcow2Geometry): ForwardStep {
  const { clusterBits, clusterSize, extendedL2, l2EntrySize } = geometry;
  const at = index * l2EntrySize;
  const high = table.readUInt32BE(at);
  const low = table.readUInt32BE(at + 4);
  if (isCompressed(high)) {
    const { offset, length } = decodeCompressed(high, low, clusterBits);
    return { kind: 'compressed', length: clusterSize, host: offset, hostLength: length };
  }
  if (l2Reserved(high, low)) throw new ForwardImpossible('an L2 entry has reserved bits set');
  const offset = entryOffset(high, low);
  if (!isData(table, at, { offset, low, extendedL2 })) return zeros(clusterSize);
  if (offset % clusterSize !== 0 || offset > Number.MAX_SAFE_INTEGER - clusterSize) {
    throw new ForwardImpossible('a data cluster is not aligned');
  }
  return { kind: 'plain', length: clusterSize, host: offset, hostLength: clusterSize };
}

function isData(table: Buffer, at: number, entry: { offset: number; low: number; extendedL2: boolean }): boolean {
  if (!entry.extendedL2) return entry.offset !== 0 && (entry.low & ZERO_LOW) === 0;
  const { allocated } = decodeSubclusters(table, at);
  if (allocated === 0) return false;
  if (allocated !== ALL_SUBCLUSTERS || entry.offset === 0) throw new ForwardImpossible('a cluster is there in part');
  return true;
}
