import {
  decodeQedHeader,
  ENTRY_BYTES,
  Feature,
  HEADER_BYTES,
  l1EntriesFor,
  type QedHeader,
  qedGeometry,
} from '../../layouts/qed/index.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import type { BackingReference } from '../source.ts';

/** What the header clusters say. */
export interface QedHead {
  header: QedHeader;
  backing: BackingReference | null;
}

/** Reads and checks the header and the backing file's name. Errors are `corrupt` or `unsupported`, in QEMU's words. */
export async function readQedHead(storage: Storage): Promise<QedHead> {
  const head = Buffer.alloc(HEADER_BYTES);
  await readPadded(storage, 0, head);
  const header = decodeQedHeader(head, storage.size);
  return { header, backing: await readBacking(storage, header) };
}

async function readBacking(storage: Storage, header: QedHeader): Promise<BackingReference | null> {
  if ((header.features & Feature.backingFile) === 0n) return null;
  const name = Buffer.alloc(header.backingLength);
  await readPadded(storage, header.backingOffset, name);
  // QEMU keeps names as C strings.
  const end = name.indexOf(0);
  const filename = name.toString('utf8', 0, end < 0 ? name.length : end);
  if (filename === '') return null;
  return { filename, format: (header.features & Feature.backingIsRaw) !== 0n ? 'raw' : null };
}

/** The L1 table, as far as a disk of `size` bytes needs it. */
export async function readL1(storage: Storage, header: QedHeader, size = header.size): Promise<Buffer> {
  const l1 = Buffer.alloc(l1EntriesFor(size, qedGeometry(header)) * ENTRY_BYTES);
  await readPadded(storage, header.l1Offset, l1);
  return l1;
}
