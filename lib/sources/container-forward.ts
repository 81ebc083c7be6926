import { ImageError } from '../core/errors.ts';
import type { ByteReader } from '../core/extent.ts';
import { tracePoint } from '../core/trace.ts';
import { isTarHeader, TAR_BLOCK } from '../layouts/tar.ts';
import { MAX_HEAD, PipeInput } from '../storage/pipe-input.ts';
import { unpack } from '../storage/unpack.ts';
import { fileOf, isDescriptor, memberNamed, onlyOne, readDescriptor } from './container.ts';
import { ForwardImpossible } from './forward.ts';
import { tarMembers } from './tar-members.ts';

const traceContainer = tracePoint('container_forward');

/**
 * The disk inside an appliance that comes through a pipe, as a pipe of its own: the archive is read on to the disk, and
 * after it to its end. Null, with nothing consumed, where what comes is no tar archive. ForwardImpossible, with nothing
 * consumed, where the archive does not begin with an OVF descriptor, as an appliance must: the whole of it must
 * then be seen to know what its disk is.
 */
export async function forwardContainer(input: PipeInput, member: string | null): Promise<PipeInput | null> {
  if (!isTarHeader(await input.peek(TAR_BLOCK))) {
    if (member === null) return null;
    throw new ImageError('invalid', `What comes is no tar archive, so it has no '${member}'`, { file: input.name });
  }
  const name = member ?? (await onlyDisk(input));
  const found = await forwardTo(input, name);
  if (traceContainer.enabled) traceContainer.emit({ file: input.name, member: name, size: found.size });
  const chunks = unpack(input.pass(found.size), input.name);
  return new PipeInput(input.name, chunks, () => input.stop());
}

/** The name of the disk that the descriptor names, from the head alone. */
async function onlyDisk(input: PipeInput): Promise<string> {
  const head = headOf(input);
  for await (const first of tarMembers(head, Number.POSITIVE_INFINITY)) {
    if (!isDescriptor(first) || first.offset + first.size > MAX_HEAD) break;
    const disks = await readDescriptor(head, first);
    return onlyOne(
      disks.map((disk) => ({ name: fileOf(disk, input.name) })),
      input.name,
    ).name;
  }
  throw new ForwardImpossible('the archive does not begin with an OVF descriptor');
}

/** The pipe's head, looked at and not consumed. */
function headOf(input: PipeInput): ByteReader {
  return {
    name: input.name,
    async read(offset, buffer) {
      const end = offset + buffer.length;
      if (end > MAX_HEAD) throw new ForwardImpossible('its descriptor lies too far behind');
      const head = await input.peek(end);
      if (head.length < end) throw new ImageError('corrupt', 'The archive ends within a member', { file: input.name });
      head.copy(buffer, 0, offset);
    },
  };
}

/** Consumes the archive up to the first byte of the member. */
async function forwardTo(input: PipeInput, name: string) {
  for await (const member of tarMembers(input, Number.POSITIVE_INFINITY)) {
    if (member.name !== name.replace(/^(\.\/)+/, '')) continue;
    memberNamed([member], name, input.name);
    await input.skipTo(member.offset);
    return member;
  }
  throw new ImageError('missing', `The archive has no '${name}'`, { file: input.name });
}
