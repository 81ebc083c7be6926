import test from 'ava';
import { amendQcow2 } from '../../lib/sinks/qcow2/amend/index.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { emptyGate, openRequest } from '../support/requests.ts';
import { editSpoiled } from './edits.ts';

async function changed(before: Buffer, values: Record<string, string | number>): Promise<Buffer> {
  const storage = memoryStorage('hostile', before);
  await amendQcow2({ ...openRequest(storage, true, { gate: emptyGate }), values });
  return storage.bytes();
}

test('a spoiled image is amended, or refused clearly', async (t) => {
  // What touches most: the width of the refcounts, the size, the version.
  await editSpoiled(t, ['version2', 'tiny-clusters', 'wide-refcounts', 'zlib'], async (bytes) => {
    const wide = await changed(bytes, { compat: 'v3', refcount_bits: 32 });
    await changed(wide, { refcount_bits: 16, compat: 'v2' });
  });
});
