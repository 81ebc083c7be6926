import { alignUp } from '../../core/binary.ts';
import type { Storage } from '../../storage/storage.ts';
import type { SourceRequest } from '../source.ts';
import { type LuksContainer, openLuksContainer } from './container.ts';
import { LuksSource } from './source.ts';

export { type LuksContainer, openLuksContainer } from './container.ts';
export { LuksSource } from './source.ts';

/** Opens a LUKS container: the disk that its key secret unlocks, or only its description. */
export async function openLuks(request: SourceRequest): Promise<LuksSource> {
  const container = await openLuksContainer(request);
  return new LuksSource(request.storage, container, () => payloadSize(request.storage, container));
}

/** Bytes of the disk: whole sectors. */
export function payloadSize(
  storage: Storage,
  { payloadOffset, payloadSize: given, sectorSize }: LuksContainer,
): number {
  return given ?? alignUp(storage.size - payloadOffset, sectorSize);
}
