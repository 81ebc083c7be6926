import { alignUp } from '../../core/binary.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import { tracePoint } from '../../core/trace.ts';
import { batGeometry, HEADER_SECTION, MAX_DISK_SIZE, MIB, NO_GUID, newGuid } from '../../layouts/vhdx/index.ts';
import type { VhdxHead } from '../../sources/vhdx/head.ts';
import type { Storage } from '../../storage/storage.ts';
import { BlockTarget } from '../blocks/target.ts';
import { startNewFile } from '../new-file.ts';
import { checkSettings, type VhdxSettings } from './options.ts';
import { SPARSE_UNIT, VhdxStore } from './store.ts';
import { batLength, writeNewBat } from './structures.ts';

const traceCreate = tracePoint('vhdx_create');

/** Disks are made of sectors of this size; others are rounded up. */
const SECTOR = 512;
const METADATA_LENGTH = MIB;
/** Between the metadata and the first block QEMU leaves some room. */
const GAP = 4 * MIB;

export interface VhdxCreateRequest {
  storage: Storage;
  /** Guest size in bytes. */
  size: number;
  /** Values of `vhdxCreateOptions`, and of the file's. */
  options: AnyOptionValues;
}

/**
 * Makes a new image in `storage` and returns it open for writing. The first 64 KiB stay empty until `close`, so that
 * what an interrupted program leaves behind isn't taken for an image.
 */
export async function createVhdx({ storage, size, options }: VhdxCreateRequest): Promise<BlockTarget> {
  const settings = checkSettings(options, size);
  const head = newHead(storage, alignUp(size, SECTOR), settings);
  const { geometry, parameters, regions } = head;
  const { blockSize } = parameters;
  const firstBlock = regions.metadata.offset + METADATA_LENGTH + GAP;
  if (traceCreate.enabled) {
    traceCreate.emit({ file: storage.name, size: parameters.size, block_size: blockSize, fixed: settings.fixed });
  }
  await startNewFile(storage, options, 'vhdx');
  const end = settings.fixed ? firstBlock + geometry.blocks * blockSize : firstBlock;
  if (storage.fixedSize) await storage.zero(0, settings.fixed ? end : firstBlock);
  else await storage.truncate(end);
  await writeNewBat(storage, head, { host: settings.fixed ? firstBlock : null, zero: settings.blockStateZero });
  const store = new VhdxStore({ head, fresh: true, end, blockStateZero: settings.blockStateZero });
  return new BlockTarget(store, { sparseUnit: SPARSE_UNIT });
}

/** Log, BAT and metadata behind each other, as QEMU lays them out. */
function newHead(storage: Storage, size: number, settings: VhdxSettings): VhdxHead {
  const { blockSize, logSize, fixed } = settings;
  const parameters = {
    blockSize,
    leaveAllocated: fixed,
    hasParent: false,
    size,
    diskId: newGuid(),
    logicalSectorSize: SECTOR,
    physicalSectorSize: SECTOR,
  };
  const geometry = batGeometry(parameters);
  // A disk of no size yet is one that will grow: room that isn't used stays a hole, and outside the region in the end.
  const room = size > 0 ? geometry : batGeometry({ ...parameters, size: MAX_DISK_SIZE });
  const bat = { offset: HEADER_SECTION + logSize, length: batLength(room) };
  const header = {
    sequence: 1n,
    fileWriteGuid: newGuid(),
    dataWriteGuid: newGuid(),
    logGuid: NO_GUID,
    logLength: logSize,
    logOffset: HEADER_SECTION,
  };
  const metadata = { offset: bat.offset + bat.length, length: METADATA_LENGTH };
  return { storage, header, slot: 0, regions: { bat, metadata }, parameters, geometry, sizeAt: 0, locator: null };
}
