import { Block } from '../../sources/block-table.ts';
import type { GuestRange } from '../zeros.ts';
import type { BlockStore, TablePage } from './store.ts';
import { checkedEntry } from './write.ts';

/** What a range shall become. */
export type Clearing =
  | 'zero' // reads as zeros; its space stays
  | 'unmap' // reads as zeros; its space may be given back
  | 'discard'; // need not read as anything; its space is given back

/** A guest range under one table page. */
export interface ClearRequest extends GuestRange {
  clearing: Clearing;
}

interface HostRange {
  host: number;
  length: number;
}

/**
 * Makes the range read as zeros as far as entries can say it and the host file can be zeroed in place: blocks that are there stay
 * where they are, since these formats do not keep account of free space. The caller holds the blocks.
 * @returns guest ranges to which zeros have to be written
 */
export async function clearSegment(store: BlockStore, request: ClearRequest): Promise<GuestRange[]> {
  const hosts: HostRange[] = [];
  const left: GuestRange[] = [];
  await store.tables.lock.run(() => clearEntries(store, request, hosts, left));
  for (const { host, length } of hosts) {
    if (request.clearing === 'discard') await store.data.discard(host, length);
    else await store.data.zero(host, length, { unmap: request.clearing === 'unmap' });
  }
  return left;
}

async function clearEntries(store: BlockStore, request: ClearRequest, hosts: HostRange[], left: GuestRange[]) {
  const first = Math.floor(request.start / store.blockSize);
  const looked = await store.tables.page(first);
  const page = looked ?? (await pageToMark(store, request));
  // No page and nothing behind it: reads as zeros already.
  if (page === null) return;
  try {
    for (let block = first; block * store.blockSize < request.end; block += 1) {
      await clearBlock(store, { page, block, request, hosts, left });
    }
  } finally {
    page.release();
  }
}

async function pageToMark(store: BlockStore, { start, clearing }: ClearRequest): Promise<TablePage | null> {
  if (clearing === 'discard' || !isBacked(store, start)) return null;
  return store.tables.pageForWrite(Math.floor(start / store.blockSize));
}

/** Whether guest bytes from `offset` on that this layer leaves unallocated may come from a backing file. */
function isBacked({ hasBacking, backing }: BlockStore, offset: number): boolean {
  return hasBacking && (backing === null || offset < backing.size);
}

interface BlockClearing {
  page: TablePage;
  block: number;
  request: ClearRequest;
  hosts: HostRange[];
  left: GuestRange[];
}

async function clearBlock(store: BlockStore, { page, block, request, hosts, left }: BlockClearing): Promise<void> {
  const { blockSize } = store;
  const base = block * blockSize;
  const start = Math.max(base, request.start);
  const end = Math.min(base + blockSize, request.end);
  const entry = checkedEntry(store, page, block);
  if (entry >= 0) {
    // What a hole decrypts to is no zeros.
    if (store.cipher) {
      if (request.clearing !== 'discard') pushRange(left, start, end);
      return;
    }
    await store.touch?.(block, 1, entry);
    pushHost(hosts, entry + (start - base), end - start);
    return;
  }
  if (entry === Block.zero || (entry === Block.unallocated && !isBacked(store, base))) return;
  if (request.clearing === 'discard') return;
  // The disk may end within its last block, whose rest nobody reads.
  const whole = start === base && (end === base + blockSize || end >= store.size);
  if (whole && store.canZero) page.set(block, Block.zero);
  else if (whole && entry === Block.packed && !isBacked(store, base)) page.set(block, Block.unallocated);
  else pushRange(left, start, end);
}

function pushHost(hosts: HostRange[], host: number, length: number): void {
  const last = hosts.at(-1);
  if (last !== undefined && last.host + last.length === host) last.length += length;
  else hosts.push({ host, length });
}

function pushRange(ranges: GuestRange[], start: number, end: number): void {
  const last = ranges.at(-1);
  if (last !== undefined && last.end === start) last.end = end;
  else ranges.push({ start, end });
}
