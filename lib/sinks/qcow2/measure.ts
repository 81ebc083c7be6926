import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import type { Extent } from '../../core/extent.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import type { Secrets } from '../../crypto/secrets.ts';
import { MAX_L1_BYTES } from '../../layouts/qcow2/index.ts';
import type { LayerInfo } from '../../sources/source.ts';
import { luksPayloadOffset, parseLuksOptions } from '../encryption/luks.ts';
import { wantedEncryption, wantedPassphrase } from '../encryption/wanted.ts';
import { checkSettings } from './settings.ts';

export interface Qcow2MeasureRequest {
  size: number;
  options: AnyOptionValues;
  plan: (() => AsyncIterable<readonly Extent[]>) | null;
  hasBacking: boolean;
  /** What `encrypt.key-secret` names. */
  secrets?: Secrets;
  /** What the source says of itself. */
  description?: LayerInfo | null;
}

/** Bytes of the file: at the least, given the data, and with every cluster allocated. As QEMU counts them. */
export async function measureQcow2(
  request: Qcow2MeasureRequest,
): Promise<{ required: number; fullyAllocated: number; bitmaps?: number }> {
  const hasBacking = request.hasBacking || request.options.backing_file !== undefined;
  const { version, clusterSize, extendedL2, refcountBits, preallocation } = checkSettings(
    { ...withoutEncryption(request.options), preallocation: request.options.preallocation ?? 'off' },
    false,
  );
  const size = alignUp(request.size, clusterSize);
  const l2EntrySize = extendedL2 ? 16 : 8;
  const l1Bytes = Math.ceil(size / clusterSize / (clusterSize / l2EntrySize)) * 8;
  if (l1Bytes > MAX_L1_BYTES) {
    throw new ImageError('invalid', 'The image size is too large (try using a larger cluster size)', {
      format: 'qcow2',
      operation: 'measure',
    });
  }
  const luks = alignUp(luksBytes(request), clusterSize);
  const metadata = metadataBytes({ size, clusterSize, l2EntrySize, refcountBits }) + luks;
  // How much of a backing chain is shared can't be told: all of it may have to be stored.
  const everything = preallocation === 'full' || preallocation === 'falloc' || (request.plan !== null && hasBacking);
  const data = everything ? size : request.plan === null ? 0 : await dataBytes(request.plan, clusterSize);
  const bitmaps = version < 3 ? undefined : bitmapBytes(request, clusterSize);
  return { required: metadata + data, fullyAllocated: metadata + size, ...(bitmaps === undefined ? {} : { bitmaps }) };
}

/** Bytes of the LUKS header and its key material. Other encryption takes no space, and QEMU does not look at its options. */
function luksBytes({ options, secrets }: Qcow2MeasureRequest): number {
  if (options['encrypt.format'] !== 'luks') return 0;
  const wanted = wantedEncryption({ ...options, encryption: undefined });
  if (wanted === null) return 0;
  const settings = parseLuksOptions(wanted.values);
  wantedPassphrase(wanted, secrets);
  return luksPayloadOffset(settings);
}

function withoutEncryption(options: AnyOptionValues): AnyOptionValues {
  return Object.fromEntries(
    Object.entries(options).filter(([key]) => key !== 'encryption' && !key.startsWith('encrypt.')),
  );
}

const DIRECTORY_ENTRY_BYTES = 24;

/**
 * What the source's persistent bitmaps would take (docs/interop/qcow2.txt, "Bitmaps"): data, a table each, and the
 * directory. Undefined where the source cannot have any.
 */
function bitmapBytes({ size, description }: Qcow2MeasureRequest, clusterSize: number): number | undefined {
  const { type, data } = description?.formatSpecific ?? {};
  if (type !== 'qcow2' || data === undefined || data.compat === '0.10') return undefined;
  let bytes = 0;
  let directory = 0;
  for (const bitmap of Array.isArray(data.bitmaps) ? data.bitmaps : []) {
    const { name, granularity } = bitmap as { name: string; granularity: number };
    const clusters = Math.ceil(size / granularity / 8 / clusterSize);
    bytes += clusters * clusterSize + alignUp(clusters * 8, clusterSize);
    directory += alignUp(DIRECTORY_ENTRY_BYTES + Buffer.byteLength(name), 8);
  }
  return bytes + alignUp(directory, clusterSize);
}

interface Shape {
  /** Guest size, whole clusters. */
  size: number;
  clusterSize: number;
  l2EntrySize: number;
  refcountBits: number;
}

/** Header, L1 and L2 tables, refcount table and blocks of a fully allocated image. */
function metadataBytes({ size, clusterSize, l2EntrySize, refcountBits }: Shape): number {
  const l2Entries = alignUp(size / clusterSize, clusterSize / l2EntrySize);
  const l2Bytes = l2Entries * l2EntrySize;
  const l1Bytes = alignUp(l2Bytes / clusterSize, clusterSize / 8) * 8;
  const counted = clusterSize + l2Bytes + l1Bytes;
  return counted + refcountBytes((counted + size) / clusterSize, clusterSize, refcountBits);
}

/** Refcount structures count themselves too: repeated until it no longer changes. */
function refcountBytes(clusters: number, clusterSize: number, refcountBits: number): number {
  const perBlock = (clusterSize * 8) / refcountBits;
  let blocks = 0;
  let table = 0;
  for (let before = -1; before !== blocks + table; ) {
    before = blocks + table;
    blocks = Math.ceil((clusters + table + blocks) / perBlock);
    table = Math.ceil(blocks / (clusterSize / 8));
  }
  return (blocks + table) * clusterSize;
}

async function dataBytes(plan: () => AsyncIterable<readonly Extent[]>, clusterSize: number): Promise<number> {
  let bytes = 0;
  let counted = 0;
  for await (const extents of plan()) {
    for (const { kind, offset, length } of extents) {
      if (kind !== 'data') continue;
      const start = Math.max(counted, Math.floor(offset / clusterSize) * clusterSize);
      const end = alignUp(offset + length, clusterSize);
      if (end <= start) continue;
      bytes += end - start;
      counted = end;
    }
  }
  return bytes;
}
