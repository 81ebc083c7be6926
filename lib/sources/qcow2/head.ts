import { ensure, ImageError } from '../../core/errors.ts';
import {
  checkTables,
  decodeFeatureNames,
  decodeHeader,
  decodeTail,
  ExtensionType,
  findExtension,
  geometryOf,
  type HeaderTail,
  KNOWN_INCOMPATIBLE,
  MIN_CLUSTER_BITS,
  type Qcow2Geometry,
  type Qcow2Header,
} from '../../layouts/qcow2/index.ts';
import type { Storage } from '../../storage/storage.ts';

/** What the first cluster of an image says. */
export interface Qcow2Head {
  header: Qcow2Header;
  tail: HeaderTail;
  geometry: Qcow2Geometry;
}

/** The fields that tell how long the whole is lie in here. */
const FIRST_LOOK = 4096;

/**
 * Reads and checks header, extensions and backing file name (qcow2.txt, "Header"). `corrupt` where they
 * contradict themselves, `unsupported` for a version or feature that is not known. `forCheck` lets pass what a check
 * repairs.
 */
export async function readHead(storage: Storage, { forCheck = false } = {}): Promise<Qcow2Head> {
  const first = await readUpTo(storage, FIRST_LOOK);
  // A header longer than the first look is decoded from the whole cluster.
  const bits = first.length >= 24 ? first.readUInt32BE(20) : 0;
  const wanted = bits > 12 && bits <= 21 ? 2 ** bits : FIRST_LOOK;
  const head = wanted > first.length && storage.size > first.length ? await readUpTo(storage, wanted) : first;
  const header = decodeHeader(head);
  refuseUnknownFeatures(header, head);
  const tail = decodeTail(head, header);
  checkTables(header, { forCheck });
  const geometry = geometryOf(header);
  const smallest = 2 ** MIN_CLUSTER_BITS;
  ensure(geometry.subclusterSize >= smallest, `Unsupported subcluster size: ${geometry.subclusterSize}`, {
    offset: 20,
  });
  return { header, tail, geometry };
}

async function readUpTo(storage: Storage, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(Math.min(length, storage.size));
  await storage.read(0, bytes);
  return bytes;
}

/** Unknown incompatible features mean that the image can't be understood: named where the image names them. */
function refuseUnknownFeatures(header: Qcow2Header, head: Buffer): void {
  const unknown = header.incompatible & ~KNOWN_INCOMPATIBLE;
  if (unknown === 0n) return;
  const { names, rest } = nameFeatures(unknown, header, head);
  if (rest !== 0n) names.push(`Unknown incompatible feature: ${rest.toString(16)}`);
  throw new ImageError('unsupported', `Unsupported qcow2 feature(s): ${names.join(', ')}`, { offset: 72 });
}

function nameFeatures(unknown: bigint, header: Qcow2Header, head: Buffer): { names: string[]; rest: bigint } {
  const names: string[] = [];
  let rest = unknown;
  for (const feature of featureTable(header, head)) {
    const mask = 1n << BigInt(feature.bit & 63);
    if (feature.kind !== 'incompatible' || (rest & mask) === 0n || feature.bit > 63) continue;
    names.push(feature.name);
    rest &= ~mask;
  }
  return { names, rest };
}

/** The names are only a help, so a tail that can't be decoded must not hide the features it lacks. */
function featureTable(header: Qcow2Header, head: Buffer) {
  try {
    const table = findExtension(decodeTail(head, header).extensions, ExtensionType.featureNames);
    return table === null ? [] : decodeFeatureNames(table);
  } catch {
    return [];
  }
}
