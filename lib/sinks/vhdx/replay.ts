import { ensure } from '../../core/errors.ts';
import { NO_GUID, newGuid, type VhdxHeader } from '../../layouts/vhdx/index.ts';
import { readHeader } from '../../sources/vhdx/head.ts';
import { VhdxLog } from '../../sources/vhdx/log.ts';
import type { Storage } from '../../storage/storage.ts';
import { VhdxHeaders } from './headers.ts';

/** Header sequence numbers have 64 bits; so many are left for the changes of one writer. */
const LAST_SEQUENCE = 2n ** 64n - 2n ** 32n;

/** Throws unless the file can be changed: it has a log, and numbers for its headers. */
export function checkLog(header: VhdxHeader, storage: Storage): void {
  ensure(
    header.logLength > 0 && header.logOffset + header.logLength <= storage.size,
    'The file has no log to write to, or ends before it',
  );
  ensure(header.sequence < LAST_SEQUENCE, 'The headers have no sequence numbers left');
}

/**
 * Brings what is in the log to its place (section 2.3.3), and calls the log empty then. A kill on the way leaves the
 * log as it is, to be replayed once more.
 */
export async function replayLog(storage: Storage): Promise<void> {
  const { header, slot } = await readHeader(storage);
  const log = new VhdxLog(storage, header);
  const entries = await log.activeSequence();
  const headers = new VhdxHeaders(storage, header, slot);
  await headers.update({ fileWriteGuid: newGuid() });
  await log.replay(entries, {
    put: (offset, bytes) => storage.write(offset, bytes),
    clear: (offset, length) => storage.zero(offset, length),
  });
  const lastFileOffset = entries.at(-1)?.lastFileOffset ?? 0;
  if (!storage.fixedSize && storage.size < lastFileOffset) await storage.truncate(lastFileOffset);
  await storage.flush();
  await headers.update({ logGuid: NO_GUID });
}
