import { alignUp } from '../core/binary.ts';
import { ensure, ImageError } from '../core/errors.ts';
import type { ByteReader } from '../core/extent.ts';
import {
  continuesSparseMap,
  decodePaxRecords,
  decodeTarHeader,
  TAR_BLOCK,
  type TarHeader,
  TarType,
} from '../layouts/tar.ts';

/** A file in an archive. */
export interface TarMember {
  /** Without a leading `./`. */
  name: string;
  /** Where its bytes begin. */
  offset: number;
  size: number;
  /** Its holes are left out: the bytes are not the file's. */
  sparse: boolean;
}

/** Appliances have a handful; the bound keeps an archive of a whole file system from being walked for nothing. */
const MAX_MEMBERS = 10_000;
/** Names and pax records are far shorter. */
const MAX_EXTENSION = 1024 * 1024;

/** What the headers before a member's own say of it. */
interface Said {
  name?: string;
  size?: number;
  sparse: boolean;
}

/**
 * The ordinary files of a tar archive, in its order. Reads go forward only. A `corrupt` ImageError where the archive
 * contradicts itself, or has more than 10 000 members.
 * @param end bytes of the archive; infinite where its length is not known
 */
export async function* tarMembers(reader: ByteReader, end: number): AsyncGenerator<TarMember, void, void> {
  let said: Said = { sparse: false };
  let at = 0;
  for (let count = 0; at + TAR_BLOCK <= end; count += 1) {
    ensure(count < MAX_MEMBERS, `The archive has more than ${MAX_MEMBERS} members`, { file: reader.name });
    const header = await readHeader(reader, at);
    if (header === null) return;
    const offset = await endOfHeader(reader, header, at);
    // A pax header's size goes before the one of the header itself, which ends at 8 GiB.
    const size = isExtension(header) ? header.size : (said.size ?? header.size);
    ensure(offset + size <= end, 'The archive ends within a member', { file: reader.name, offset: at });
    at = offset + alignUp(size, TAR_BLOCK);
    if (isExtension(header)) {
      said = await readExtension(reader, header, offset, said);
      continue;
    }
    if (isFile(header)) yield memberOf({ ...header, size }, offset, said);
    said = { sparse: false };
  }
}

async function endOfHeader(reader: ByteReader, { extended }: TarHeader, start: number): Promise<number> {
  const block = Buffer.alloc(TAR_BLOCK);
  let at = start + TAR_BLOCK;
  for (let more = extended, count = 0; more; at += TAR_BLOCK, count += 1) {
    ensure(count < MAX_MEMBERS, 'A file in the archive has too many holes', { file: reader.name, offset: start });
    await reader.read(at, block);
    more = continuesSparseMap(block);
  }
  return at;
}

async function readHeader(reader: ByteReader, offset: number): Promise<TarHeader | null> {
  const block = Buffer.alloc(TAR_BLOCK);
  await reader.read(offset, block);
  try {
    return decodeTarHeader(block);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    throw new ImageError(error.kind, error.message, { file: reader.name, offset, cause: error });
  }
}

function isExtension({ type }: TarHeader): boolean {
  return (
    type === TarType.paxNext || type === TarType.paxGlobal || type === TarType.longName || type === TarType.longLink
  );
}

function isFile({ type }: TarHeader): boolean {
  return type === TarType.file || type === TarType.oldFile || type === TarType.contiguous || type === TarType.gnuSparse;
}

async function readExtension(reader: ByteReader, { type, size }: TarHeader, offset: number, said: Said): Promise<Said> {
  if (type !== TarType.paxNext && type !== TarType.longName) return said;
  ensure(size <= MAX_EXTENSION, 'A header of the archive is too large', { file: reader.name, offset });
  const bytes = Buffer.alloc(size);
  await reader.read(offset, bytes);
  if (type === TarType.longName) return { ...said, name: bytes.toString('utf8').replace(/\0.*$/s, '') };
  const records = decodePaxRecords(bytes);
  const length = records.get('size');
  ensure(length === undefined || /^\d{1,15}$/.test(length), 'A pax header of the archive is damaged', { offset });
  const keys = [...records.keys()];
  return {
    // What tar calls a sparse file elsewhere is not its name.
    name: records.get('GNU.sparse.name') ?? records.get('path') ?? said.name,
    size: length === undefined ? said.size : Number(length),
    sparse: said.sparse || keys.some((key) => key.startsWith('GNU.sparse.')),
  };
}

function memberOf({ name, size, type }: TarHeader, offset: number, said: Said): TarMember {
  const plain = (said.name ?? name).replace(/^(\.\/)+/, '');
  return { name: plain, offset, size, sparse: said.sparse || type === TarType.gnuSparse };
}
