import { alignUp } from '../../core/binary.ts';
import {
  ENTRY_BYTES,
  type ExtentLine,
  hasRedundantTables,
  newStreamHeader,
  SECTOR,
  tablesFor,
} from '../../layouts/vmdk/index.ts';
import { readDirectory } from '../../sources/vmdk/grain-shape.ts';
import { type VmdkExtent, VmdkImage } from '../../sources/vmdk/image.ts';
import type { FoundHeader } from '../../sources/vmdk/index.ts';
import type { Storage } from '../../storage/storage.ts';
import type { BlockStore } from '../blocks/store.ts';
import type { ClusterCompressor, Target } from '../target.ts';
import { grainCompressor } from './grain-compressor.ts';
import { type NewImage, ownLine } from './new-image.ts';
import { StreamPart } from './stream-part.ts';
import { beginStream } from './stream-target.ts';
import { type ImagePart, VmdkTarget } from './target.ts';

/**
 * Makes a stream-optimized image. Its file is the same whether it is written into a pipe (`forward`) or, in guest order, into a
 * file; but a file gets its header last.
 */
export async function createStreamOptimized(image: NewImage, { forward }: { forward: boolean }): Promise<Target> {
  const { request, settings, size, descriptor } = image;
  const { storage, backing } = request;
  const header = newStreamHeader({ size, zeroGrains: settings.zeroGrains });
  const directory = Buffer.alloc(tablesFor(header) * ENTRY_BYTES);
  const position = header.overhead * SECTOR;
  const text = image.text([ownLine(image)]);
  const common = { storage, header, directory, redundant: null, position, fresh: true } as const;
  const below = { backing: backing?.source ?? null, hasBacking: backing !== null };
  if (forward) return beginStream({ ...common, ...below, size, descriptor: text });
  if (storage.fixedSize) await storage.zero(0, position);
  else await storage.truncate(position);
  const part = new StreamPart({ ...common, ...below, descriptor: text, hasFooter: false });
  return new VmdkTarget({
    storage,
    parts: [part],
    source: new VmdkImage({
      storage,
      createType: settings.subformat,
      descriptor,
      extents: [streamExtent(part, storage, null)],
    }),
    fresh: true,
    readsAsZero: backing === null,
    compressor: grainCompressor,
  });
}

function streamExtent(part: StreamPart, storage: Storage, line: ExtentLine | null): VmdkExtent {
  const { source } = part;
  return {
    access: 'RW',
    type: line?.type ?? null,
    storage,
    reader: source,
    grainBytes: source.granularity,
    compressed: true,
  };
}

/** Opens an existing stream-optimized extent: new grains go behind all that there is. */
export async function openStreamOptimized({
  storage,
  header,
  line,
  backing,
  hasBacking,
}: {
  storage: Storage;
  header: FoundHeader;
  line: ExtentLine | null;
  backing: BlockStore['backing'];
  hasBacking: boolean;
}): Promise<{ part: ImagePart; extent: VmdkExtent; compressor: ClusterCompressor }> {
  const tables = tablesFor(header);
  const part = new StreamPart({
    storage,
    header,
    directory: await readDirectory(storage, header.directory, tables),
    redundant: hasRedundantTables(header) ? await readDirectory(storage, header.redundantDirectory, tables) : null,
    position: alignUp(storage.size, SECTOR),
    fresh: false,
    backing,
    hasBacking,
    descriptor: null,
    hasFooter: header.inFooter,
  });
  const unit = header.grainSectors * SECTOR;
  return { part, extent: streamExtent(part, storage, line), compressor: { ...grainCompressor, unit } };
}
