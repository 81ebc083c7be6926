import type { AnyOptionValues } from '../../core/options.ts';
import { tracePoint } from '../../core/trace.ts';
import { BLOCK_UNALLOCATED, MAP_ENTRY, newVdiHeader, VDI_BLOCK, type VdiHeader, VdiType } from '../../layouts/vdi.ts';
import type { Storage } from '../../storage/storage.ts';
import { BlockTarget } from '../blocks/target.ts';
import { startNewFile } from '../new-file.ts';
import { growTo } from '../zeros.ts';
import { VdiStore } from './store.ts';

const traceCreate = tracePoint('vdi_create');

/** Bytes of block map written at once. */
const WRITE_BYTES = 1024 * 1024;

export interface VdiCreateRequest {
  storage: Storage;
  /** Guest size in bytes. */
  size: number;
  /** Values of `vdiCreateOptions`, and of the file protocol. */
  options: AnyOptionValues;
}

/**
 * Makes a new image in `storage` and returns it open for writing. The header is written by `close`; until then nobody
 * takes the file for a disk.
 */
export async function createVdi({ storage, size, options }: VdiCreateRequest): Promise<BlockTarget> {
  const isStatic = options.static === true;
  const header = newVdiHeader(size, isStatic ? VdiType.static : VdiType.dynamic);
  await startNewFile(storage, options, 'vdi');
  if (traceCreate.enabled) traceCreate.emit({ file: storage.name, size, static: isStatic });
  await storage.zero(0, header.mapOffset);
  await writeMap(storage, header);
  const end = header.dataOffset + (isStatic ? header.blocks * VDI_BLOCK : 0);
  await growTo(storage, end);
  const store = new VdiStore(storage, header, { fresh: true });
  // A device's blocks hold what was there before.
  return new BlockTarget(store, { readsAsZero: !(isStatic && storage.fixedSize) });
}

/** Static images have all blocks from the start, in the disk's order. */
async function writeMap(storage: Storage, { mapOffset, dataOffset, blocks, type }: VdiHeader): Promise<void> {
  const piece = Buffer.alloc(Math.min(WRITE_BYTES, blocks * MAP_ENTRY));
  const entries = piece.length / MAP_ENTRY;
  for (let first = 0; first < blocks; first += entries) {
    const count = Math.min(entries, blocks - first);
    for (let index = 0; index < count; index += 1) {
      piece.writeUInt32LE(type === VdiType.static ? first + index : BLOCK_UNALLOCATED, index * MAP_ENTRY);
    }
    await storage.write(mapOffset + first * MAP_ENTRY, piece.subarray(0, count * MAP_ENTRY));
  }
  // QEMU's maps fill whole sectors.
  const end = mapOffset + blocks * MAP_ENTRY;
  if (end < dataOffset) await storage.zero(end, dataOffset - end);
}
