import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import { tracePoint } from '../../core/trace.ts';
import type { Secrets } from '../../crypto/secrets.ts';
import {
  Autoclear,
  Compatible,
  ExtensionType,
  encodeFeatureNames,
  encodeHead,
  FEATURE_NAMES,
  geometryOf,
  type HeaderExtension,
  type HeaderTail,
  Incompatible,
  l1EntriesFor,
  MAX_L1_BYTES,
  type Qcow2Header,
  V2_HEADER_LENGTH,
  V3_HEADER_LENGTH,
} from '../../layouts/qcow2/index.ts';
import type { Gate, Source } from '../../sources/source.ts';
import { tuneNewFile } from '../../storage/index.ts';
import type { CacheMode, Storage } from '../../storage/storage.ts';
import { cryptMethod, type NewEncryption, pointerExtension, prepareEncryption, writeLuks } from './encryption.ts';
import { Qcow2Image } from './image.ts';
import { ownSource } from './own-source.ts';
import { preallocate } from './preallocate.ts';
import { checkSettings, type Qcow2Settings } from './settings.ts';
import { Qcow2Target } from './target.ts';

const traceCreate = tracePoint('qcow2_create');

/** Disks are made of sectors of this size; others are rounded up. */
const SECTOR = 512;
/** The feature name table would fill smaller clusters, which have to hold the backing file's name. */
const MIN_CLUSTER_FOR_NAMES = 8 * 1024;

export interface Qcow2CreateRequest {
  storage: Storage;
  /** Guest size in bytes. */
  size: number;
  /** Values of `qcow2CreateOptions`. */
  options: AnyOptionValues;
  backing: { filename: string; format: string | null; source: Source | null } | null;
  cache: CacheMode;
  gate: Gate;
  /** What `encrypt.key-secret` names. */
  secrets?: Secrets;
}

/**
 * Makes a new image in `storage` and returns it open for writing. Until `close` the first cluster is
 * empty, so that what an interrupted program leaves behind can't be taken for a complete image.
 */
export async function createQcow2(request: Qcow2CreateRequest): Promise<Qcow2Target> {
  const { storage, backing, gate } = request;
  const settings = checkSettings(request.options, backing !== null);
  const size = alignUp(request.size, SECTOR);
  const header = newHeader(settings, size);
  const tail = newTail(settings, backing);
  if (encodeHead({ ...header }, tail) === null || (tail.backingFile?.length ?? 0) > 1023) {
    throw couldNotAssign(backing);
  }
  const encryption = await prepareEncryption(settings, request.secrets);
  if (traceCreate.enabled) traceCreate.emit({ file: storage.name, size, cluster_size: settings.clusterSize });
  // From here on the file changes.
  if (storage.size > 0 && !storage.fixedSize) await storage.truncate(0);
  await tuneNewFile(storage, request.options);
  const data =
    settings.dataFile === null
      ? storage
      : await gate.openStorage(settings.dataFile, storage, { writable: true, create: true, role: 'data' });
  try {
    if (data !== storage && !data.fixedSize) {
      await data.truncate(0);
      await data.truncate(size);
    }
    return await layOut({ request, settings, header, tail, data, encryption });
  } catch (error) {
    if (data !== storage) await data.close({ discard: true }).catch(() => {});
    throw error;
  }
}

interface Layout {
  request: Qcow2CreateRequest;
  settings: Qcow2Settings;
  header: Qcow2Header;
  tail: HeaderTail;
  data: Storage;
  encryption: NewEncryption | null;
}

async function layOut({ request, settings, header, tail, data, encryption }: Layout): Promise<Qcow2Target> {
  const { storage, backing } = request;
  const { clusterSize } = settings;
  const geometry = geometryOf(header);
  // Header, refcount table, refcount block, L1 table, as QEMU lays them out. What was there before goes.
  if (storage.fixedSize) await storage.zero(0, 4 * clusterSize);
  const image = new Qcow2Image({
    storage,
    data,
    header,
    tail,
    geometry,
    l1: Buffer.alloc(header.l1Entries * 8),
    refcountTable: Buffer.alloc(clusterSize),
    backing: backing?.source ?? null,
    cipher: encryption?.cipher ?? null,
    fresh: true,
  });
  image.refcounts.begin(3);
  header.refcountTableOffset = clusterSize;
  header.refcountTableClusters = 1;
  image.refcounts.blocks.tableOffset = clusterSize;
  // An empty disk has no L1 table; a cluster for it would be a leak.
  if (image.l1.length > 0) {
    header.l1Offset = await image.refcounts.allocateTogether(Math.ceil(image.l1.length / clusterSize));
    await storage.zero(header.l1Offset, image.l1.length);
  }
  await preallocate(image, settings.preallocation);
  if (encryption?.luks) await writeLuks(image, encryption.luks);
  const stale = storage.fixedSize && settings.preallocation !== 'off' && settings.preallocation !== 'full';
  return new Qcow2Target(image, {
    source: ownSource(image),
    readsAsZero: backing === null && !stale,
  });
}

/** The header of an image without clusters: what depends on where things will lie is still 0. */
export function newHeader(settings: Qcow2Settings, size: number): Qcow2Header {
  const { version, refcountBits, compressionType } = settings;
  const header: Qcow2Header = {
    version,
    backingOffset: 0,
    backingLength: 0,
    clusterBits: Math.log2(settings.clusterSize),
    size,
    cryptMethod: cryptMethod(settings),
    l1Entries: 0,
    l1Offset: 0,
    refcountTableOffset: 0,
    refcountTableClusters: 0,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatible:
      (settings.dataFile !== null ? Incompatible.dataFile : 0n) |
      (compressionType !== 'zlib' ? Incompatible.compression : 0n) |
      (settings.extendedL2 ? Incompatible.extendedL2 : 0n),
    // Refcounts are kept up to date all the same: what the flag permits is not made use of.
    compatible: settings.lazyRefcounts ? Compatible.lazyRefcounts : 0n,
    autoclear: settings.dataFileRaw ? Autoclear.rawDataFile : 0n,
    refcountOrder: Math.log2(refcountBits),
    headerLength: version === 2 ? V2_HEADER_LENGTH : V3_HEADER_LENGTH,
    compressionType,
    extra: Buffer.alloc(0),
  };
  header.l1Entries = l1EntriesFor(size, geometryOf(header));
  if (header.l1Entries * 8 > MAX_L1_BYTES) {
    throw new ImageError(
      'invalid',
      "The image size is too large for file format 'qcow2' (try using a larger cluster size)",
      { format: 'qcow2', operation: 'create' },
    );
  }
  return header;
}

function newTail(settings: Qcow2Settings, backing: Qcow2CreateRequest['backing']): HeaderTail {
  const extensions: HeaderExtension[] = [];
  if (backing?.format) extensions.push({ type: ExtensionType.backingFormat, data: Buffer.from(backing.format) });
  if (settings.dataFile !== null) {
    extensions.push({ type: ExtensionType.dataFile, data: Buffer.from(settings.dataFile) });
  }
  extensions.push(...pointerExtension(settings));
  if (settings.version >= 3 && settings.clusterSize >= MIN_CLUSTER_FOR_NAMES) {
    extensions.push({ type: ExtensionType.featureNames, data: encodeFeatureNames(FEATURE_NAMES) });
  }
  return { extensions, backingFile: backing?.filename ?? null };
}

function couldNotAssign(backing: Qcow2CreateRequest['backing']): ImageError {
  const message =
    backing === null
      ? 'The header extensions do not fit into one cluster'
      : `Could not assign backing file '${backing.filename}' with format '${backing.format}': ` +
        (backing.filename.length > 1023 ? 'Invalid argument' : 'No space left on device');
  return new ImageError('invalid', message, { format: 'qcow2', operation: 'create' });
}
