import { ImageError } from '../../core/errors.ts';
import {
  DESCRIPTOR_SECTOR,
  DESCRIPTOR_SECTORS,
  decodeSparseHeader,
  descriptorText,
  ENTRY_BYTES,
  hasSparseMagic,
  hasZeroGrains,
  isCompressed,
  parseDescriptor,
  SECTOR,
  SparseFlag,
  type SparseHeader,
  tablesFor,
} from '../../layouts/vmdk/index.ts';
import { MAX_HEAD, type PipeInput } from '../../storage/pipe-input.ts';
import { ForwardImpossible } from '../forward.ts';

/** What the head of a stream tells. */
export interface ForwardPlan {
  /** Guest bytes. */
  size: number;
  /** Bytes of a grain, and of a grain table. */
  grain: number;
  tableBytes: number;
  zeroGrains: boolean;
  /** Where in the input the first marker is. */
  dataOffset: number;
  /** Grains that the tables in the head name; null: the tables come between the grains. */
  expected: number | null;
}

/** Looks at the head of the pipe, without consuming it. ForwardImpossible for what has to be read at random. */
export async function planForward(input: PipeInput): Promise<ForwardPlan> {
  const first = await input.peek(SECTOR);
  if (!hasSparseMagic(first)) throw new ForwardImpossible('its extents are other files');
  const header = decodeSparseHeader(first);
  if (!isCompressed(header) || (header.flags & SparseFlag.markers) === 0) {
    throw new ForwardImpossible('its grains are not a stream');
  }
  const dataOffset = header.overhead * SECTOR;
  if (dataOffset > MAX_HEAD) throw new ForwardImpossible('its metadata are too large');
  const head = await input.peek(dataOffset);
  if (head.length < dataOffset)
    throw new ImageError('corrupt', `File truncated, expecting at least ${dataOffset} bytes`);
  refuseParent(head, header);
  return {
    size: header.capacity * SECTOR,
    grain: header.grainSectors * SECTOR,
    tableBytes: header.tableEntries * ENTRY_BYTES,
    zeroGrains: hasZeroGrains(header),
    dataOffset,
    expected: header.directory === null ? null : expectedGrains(head, header, header.directory),
  };
}

function refuseParent(head: Buffer, header: SparseHeader): void {
  const start = (header.descriptorSector || DESCRIPTOR_SECTOR) * SECTOR;
  const end = start + (header.descriptorSectors || DESCRIPTOR_SECTORS) * SECTOR;
  if (end > head.length) throw new ForwardImpossible('its descriptor is not at its beginning');
  const { parent } = parseDescriptor(descriptorText(head.subarray(start, end)));
  if (parent !== null) throw new ForwardImpossible('it has a backing file');
}

/** Walks the tables in the head, as QEMU writes them: how many grains there are, and that they come in order. */
function expectedGrains(head: Buffer, header: SparseHeader, directory: number): number {
  const tables = tablesFor(header);
  const apart = () => new ForwardImpossible('its tables are not at its beginning');
  if (directory * SECTOR + tables * ENTRY_BYTES > head.length) throw apart();
  let last = 0;
  let count = 0;
  for (let index = 0; index < tables; index += 1) {
    const table = head.readUInt32LE(directory * SECTOR + index * ENTRY_BYTES) * SECTOR;
    if (table === 0) continue;
    if (table + header.tableEntries * ENTRY_BYTES > head.length) throw apart();
    for (let entry = 0; entry < header.tableEntries; entry += 1) {
      const sector = head.readUInt32LE(table + entry * ENTRY_BYTES);
      if (sector === 0 || (sector === 1 && hasZeroGrains(header))) continue;
      if (sector <= last) throw new ForwardImpossible('its grains are not in order');
      last = sector;
      count += 1;
    }
  }
  return count;
}
