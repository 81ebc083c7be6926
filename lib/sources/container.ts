import { ensure, ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import type { OvfDisk } from '../layouts/ovf.ts';
import { isTarHeader, TAR_BLOCK } from '../layouts/tar.ts';
import type { ChunkStream } from '../storage/chunks.ts';
import { openStorage, type ProtocolSpec } from '../storage/index.ts';
import { PipeInput } from '../storage/pipe-input.ts';
import { sliceStorage } from '../storage/slice.ts';
import { spoolInput } from '../storage/spool-input.ts';
import { type CacheMode, readPadded, type Storage } from '../storage/storage.ts';
import { detectPacking, PACKING_MAGIC_BYTES, unpack } from '../storage/unpack.ts';
import { PROBE_SIZE } from './probe.ts';
import type { SourceDriver } from './source.ts';
import { type TarMember, tarMembers } from './tar-members.ts';

/** A driver that says this takes any file. */
const ANY_FILE = 1;
/** OVF descriptors have a few thousand bytes. */
const MAX_DESCRIPTOR = 4 * 1024 * 1024;
/** Names that a message lists. */
const LISTED = 12;
const CHUNK_BYTES = 1024 * 1024;

const traceContainer = tracePoint('container_open');

/** A storage, and the member of it that the filename names: `appliance.ova#disk2.vmdk`. */
export interface Place {
  storage: Storage;
  member: string | null;
}

/**
 * Opens what `file` describes, for reading. Where there is no such file and its name has a `#`, the part before it
 * is an archive, and the rest a member: a file that is there goes before any such meaning.
 */
export async function openPlace(file: ProtocolSpec, cache: CacheMode): Promise<Place> {
  try {
    return { storage: await openStorage(file, { cache }), member: null };
  } catch (error) {
    const { filename = '' } = file;
    if (!(error instanceof ImageError) || error.kind !== 'missing') throw error;
    for (let at = filename.lastIndexOf('#'); at > 0; at = filename.lastIndexOf('#', at - 1)) {
      const archive = { ...file, filename: filename.slice(0, at) };
      const storage = await openStorage(archive, { cache }).catch(() => null);
      if (storage !== null) return { storage, member: filename.slice(at + 1) };
    }
    throw error;
  }
}

/**
 * The disk inside an archive (an OVA appliance, or any tar archive with an image), as a storage that takes the other's
 * place: closing it closes that. Null where `place` is no archive, or nothing in it is an image and no member was named.
 * Several disks of which none was named are an error that lists them: which one is wanted only the user knows. A packed
 * member is unpacked into a temporary file.
 */
export async function openContainer(place: Place, drivers: readonly SourceDriver[]): Promise<Storage | null> {
  const { storage, member } = place;
  const head = Buffer.alloc(TAR_BLOCK);
  await readPadded(storage, 0, head);
  if (!isTarHeader(head)) {
    if (member === null) return null;
    throw new ImageError('invalid', `'${storage.name}' is no tar archive, so it has no '${member}'`);
  }
  const found = await chooseDisk(place, drivers);
  if (found === null) return null;
  if (traceContainer.enabled) traceContainer.emit({ file: storage.name, member: found.name, size: found.size });
  const slice = sliceStorage(storage, found);
  return (await isPacked(slice)) ? unpacked(slice) : slice;
}

async function chooseDisk({ storage, member }: Place, drivers: readonly SourceDriver[]): Promise<TarMember | null> {
  const members = await listMembers({ storage, member });
  if (members === null) return null;
  if (member !== null) return memberNamed(members, member, storage.name);
  const descriptor = members.find(isDescriptor);
  const disks =
    descriptor === undefined
      ? await recognised(storage, members, drivers)
      : disksOf(await readDescriptor(storage, descriptor), members, storage.name);
  if (disks.length > 0 || descriptor !== undefined) return onlyOne(disks, storage.name);
  // One of these may be an image: nobody shall take the archive for a raw disk unawares.
  const sparse = members.find((each) => each.sparse);
  return sparse === undefined ? null : plain(sparse, storage.name);
}

/** The files of the archive; null where it is damaged and nothing but its head says that it is one. */
async function listMembers({ storage, member }: Place): Promise<TarMember[] | null> {
  const members: TarMember[] = [];
  try {
    for await (const each of tarMembers(storage, storage.size)) members.push(each);
    return members;
  } catch (error) {
    if (!(error instanceof ImageError) || error.kind !== 'corrupt') throw error;
    if (member === null && !members.some(isDescriptor)) return null;
    throw error;
  }
}

/** The member of that name; what can't be read as it lies is refused. */
export function memberNamed(members: readonly TarMember[], name: string, file: string): TarMember {
  const found = members.find((each) => each.name === name.replace(/^(\.\/)+/, ''));
  if (found === undefined) throw new ImageError('missing', `The archive has no '${name}'`, { file });
  return plain(found, file);
}

function plain(member: TarMember, file: string): TarMember {
  if (!member.sparse) return member;
  const message = `'${member.name}' lies in the archive without its holes: unpack it with tar first`;
  throw new ImageError('unsupported', message, { file });
}

/** Whether the member describes an appliance. */
export function isDescriptor({ name }: TarMember): boolean {
  return /\.ovf$/i.test(name);
}

/** Reads the descriptor of an appliance: its disks, in its order. */
export async function readDescriptor(
  reader: Pick<Storage, 'name' | 'read'>,
  { offset, size }: TarMember,
): Promise<OvfDisk[]> {
  ensure(size <= MAX_DESCRIPTOR, "The appliance's OVF descriptor is too large", { file: reader.name });
  const bytes = Buffer.alloc(size);
  await reader.read(offset, bytes);
  const { decodeOvf } = await import('../layouts/ovf.ts');
  return decodeOvf(bytes.toString('utf8'));
}

function disksOf(disks: readonly OvfDisk[], members: readonly TarMember[], file: string): TarMember[] {
  return disks.map((disk) => memberNamed(members, fileOf(disk, file), file));
}

/** The name of a disk's file. */
export function fileOf({ href, chunked }: OvfDisk, file: string): string {
  if (!chunked) return href;
  throw new ImageError('unsupported', `Disk '${href}' of the appliance is cut into pieces: join them first`, { file });
}

/** The members that begin as an image does: what an archive without a descriptor has to offer. */
async function recognised(
  storage: Storage,
  members: readonly TarMember[],
  drivers: readonly SourceDriver[],
): Promise<TarMember[]> {
  const found: TarMember[] = [];
  for (const member of members) {
    if (member.sparse || member.size === 0) continue;
    const head = Buffer.alloc(Math.min(PROBE_SIZE, member.size));
    await storage.read(member.offset, head);
    if (drivers.some((driver) => driver.probe(head, member.name) > ANY_FILE)) found.push(member);
  }
  return found;
}

/** The one disk; several are an error that says how to name one. */
export function onlyOne<T extends { name: string }>(disks: readonly T[], file: string): T {
  if (disks.length === 1) return disks[0];
  if (disks.length === 0) throw new ImageError('missing', 'The appliance has no disk', { file });
  const names = disks.slice(0, LISTED).map(({ name }) => `'${file}#${name}'`);
  const more = disks.length > LISTED ? ` and ${disks.length - LISTED} more` : '';
  const message = `The archive holds ${disks.length} disks: name one of ${names.join(', ')}${more}`;
  throw new ImageError('invalid', message, { file });
}

async function isPacked(storage: Storage): Promise<boolean> {
  const head = Buffer.alloc(Math.min(PACKING_MAGIC_BYTES, storage.size));
  await storage.read(0, head);
  return detectPacking(head) !== null;
}

async function unpacked(storage: Storage): Promise<Storage> {
  const spool = await spoolInput(new PipeInput(storage.name, unpack(chunksOf(storage), storage.name)), null);
  await storage.close();
  return spool;
}

async function* chunksOf(storage: Storage): ChunkStream {
  const buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  for (let at = 0; at < storage.size; at += CHUNK_BYTES) {
    const part = buffer.subarray(0, Math.min(CHUNK_BYTES, storage.size - at));
    await storage.read(at, part);
    yield part;
  }
}
