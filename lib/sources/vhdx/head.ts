import { ensure } from '../../core/errors.ts';
import {
  BAT_ENTRY_LENGTH,
  type BatGeometry,
  batGeometry,
  currentHeader,
  type DiskParameters,
  decodeMetadataTable,
  decodeParameters,
  decodeParentLocator,
  decodeRegions,
  FILE_SIGNATURE,
  HEADER_LENGTH,
  HEADERS_AT,
  hasVhdxSignature,
  ItemId,
  METADATA_TABLE_LENGTH,
  type MetadataEntry,
  NO_GUID,
  type ParentLocator,
  parameterEntries,
  REGION_TABLE_LENGTH,
  REGION_TABLES_AT,
  refuseOverlaps,
  type VhdxHeader,
  type VhdxRegions,
} from '../../layouts/vhdx/index.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { VhdxLog } from './log.ts';
import { SectorOverlay } from './overlay.ts';

/** All that a VHDX file says of itself. */
export interface VhdxHead {
  header: VhdxHeader;
  /** Which of both headers it is: 0 or 1. */
  slot: number;
  regions: VhdxRegions;
  parameters: DiskParameters;
  geometry: BatGeometry;
  /** Where in the file the item lies that holds the disk's size. */
  sizeAt: number;
  locator: ParentLocator | null;
  /** The file as it is when its log has been replayed: the storage itself where there is nothing to replay. */
  storage: Storage;
}

/** Reads the current header: the only thing that may be looked at before the log is replayed. */
export async function readHeader(storage: Storage): Promise<{ header: VhdxHeader; slot: number }> {
  const signature = await readAt(storage, 0, FILE_SIGNATURE.length);
  ensure(hasVhdxSignature(signature), 'Image is not in VHDX format', { offset: 0 });
  return currentHeader(await Promise.all(HEADERS_AT.map((at) => readAt(storage, at, HEADER_LENGTH))));
}

/**
 * Reads and checks headers, region tables and metadata (sections 2.2 and 2.6). What a log says is replayed in memory:
 * the file stays as it is. `corrupt` where the structures contradict themselves, `unsupported` for what is required and
 * not known.
 */
export async function readHead(file: Storage): Promise<VhdxHead> {
  const { header, slot } = await readHeader(file);
  const storage = await replayed(file, header);
  const regions = decodeRegions(
    await Promise.all(REGION_TABLES_AT.map((at) => readAt(storage, at, REGION_TABLE_LENGTH))),
  );
  refuseOverlaps([regions.bat, regions.metadata, { offset: header.logOffset, length: header.logLength }]);
  const { parameters, locator, sizeAt } = await readMetadata(storage, regions);
  const geometry = batGeometry(parameters);
  ensure(geometry.entries * BAT_ENTRY_LENGTH <= regions.bat.length, 'The BAT is too small for the disk', {
    offset: regions.bat.offset,
  });
  return { header, slot, regions, parameters, geometry, sizeAt, locator, storage };
}

async function replayed(file: Storage, header: VhdxHeader): Promise<Storage> {
  if (header.logGuid === NO_GUID) return file;
  const log = new VhdxLog(file, header);
  const entries = await log.activeSequence();
  const overlay = new SectorOverlay(file);
  await log.replay(entries, overlay);
  overlay.extend(entries.at(-1)?.lastFileOffset ?? 0);
  return overlay;
}

/** Bytes that the file may not have: they read as zeros, which no structure consists of. */
async function readAt(storage: Storage, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  await readPadded(storage, offset, bytes);
  return bytes;
}

async function readMetadata(storage: Storage, { metadata }: VhdxRegions) {
  ensure(metadata.length >= METADATA_TABLE_LENGTH, 'The metadata region is too short', { offset: metadata.offset });
  const entries = decodeMetadataTable(await readAt(storage, metadata.offset, METADATA_TABLE_LENGTH));
  const read = ({ id, offset, length }: MetadataEntry) => {
    ensure(offset + length <= metadata.length, `The metadata item ${id} lies outside its region`);
    return readAt(storage, metadata.offset + offset, length);
  };
  const needed = parameterEntries(entries);
  const parameters = decodeParameters({
    fileParameters: await read(needed.fileParameters),
    diskSize: await read(needed.diskSize),
    diskId: await read(needed.diskId),
    logicalSectorSize: await read(needed.logicalSectorSize),
    physicalSectorSize: await read(needed.physicalSectorSize),
  });
  const sizeAt = metadata.offset + needed.diskSize.offset;
  if (!parameters.hasParent) return { parameters, sizeAt, locator: null };
  const entry = entries.get(ItemId.parentLocator);
  ensure(entry !== undefined, 'The differencing disk has no parent locator', { offset: metadata.offset });
  return { parameters, sizeAt, locator: decodeParentLocator(await read(entry)) };
}
