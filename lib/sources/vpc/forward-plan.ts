import {
  BAT_ENTRY_SIZE,
  bitmapBytes,
  DiskType,
  DYNAMIC_HEADER_SIZE,
  decodeDynamicHeader,
  decodeFooter,
  diskSize,
  FOOTER_SIZE,
  MAX_SECTORS,
  SECTOR,
} from '../../layouts/vpc/index.ts';
import { MAX_HEAD, type PipeInput } from '../../storage/pipe-input.ts';
import { Block } from '../block-table.ts';
import { ForwardImpossible } from '../forward.ts';
import { type DynamicHead, metadataOf } from './head.ts';
import { entryDecoder } from './tables.ts';

/** A dynamic disk whose blocks follow each other in guest order. */
export interface ForwardPlan {
  size: number;
  blockSize: number;
  blocks: number;
  /** Host offset of a block's data, ascending over all blocks that are there; negative: zeros. */
  entry(block: number): number;
}

/** Looks at the head of a pipe, without consuming it, for the table and for the order of the blocks. */
export async function planForward(input: PipeInput): Promise<ForwardPlan> {
  const head = await readHead(input);
  const { size, dynamic } = head;
  const { blockSize } = dynamic;
  const blocks = Math.ceil(size / blockSize);
  if (blocks > dynamic.tableEntries) throw new ForwardImpossible('its table is too small');
  const table = Buffer.from(await peekAt(input, dynamic.tableOffset, blocks * BAT_ENTRY_SIZE));
  const decode = entryDecoder(head);
  const entry = (block: number) => decode(table, block, block);
  let position = 0;
  for (let block = 0; block < blocks; block += 1) {
    const host = entry(block);
    if (host === Block.zero) continue;
    if (host < position) throw new ForwardImpossible('its blocks are not in guest order');
    position = host + blockSize;
  }
  return { size, blockSize, blocks, entry };
}

async function readHead(input: PipeInput): Promise<DynamicHead> {
  const footerBytes = Buffer.from(await peekAt(input, 0, FOOTER_SIZE));
  const footer = decodeFooter(footerBytes);
  if (footer.diskType === DiskType.fixed) throw new ForwardImpossible('it is a fixed disk of no size');
  if (footer.diskType === DiskType.differencing) throw new ForwardImpossible('it has a parent');
  const size = diskSize(footer, null);
  if (size > MAX_SECTORS * SECTOR) throw new ForwardImpossible('it is too large');
  const dynamic = decodeDynamicHeader(await peekAt(input, footer.dataOffset, DYNAMIC_HEADER_SIZE));
  const metadata = metadataOf(footer, dynamic);
  return { footer, footerBytes, size, dynamic, bitmapBytes: bitmapBytes(dynamic.blockSize), metadata };
}

async function peekAt(input: PipeInput, offset: number, length: number): Promise<Buffer> {
  if (offset + length > MAX_HEAD) throw new ForwardImpossible('its table does not come before its blocks');
  const head = await input.peek(offset + length);
  if (head.length < offset + length) throw new ForwardImpossible('it is cut off');
  return head.subarray(offset, offset + length);
}
