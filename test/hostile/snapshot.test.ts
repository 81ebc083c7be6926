import test from 'ava';
import { openQcow2Snapshots } from '../../lib/sinks/qcow2/snapshots/index.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { emptyGate, openRequest } from '../support/requests.ts';
import { editSpoiled } from './edits.ts';

test('snapshots of a spoiled image are taken, applied and deleted, or refused clearly', async (t) => {
  await editSpoiled(t, ['version2', 'tiny-clusters', 'extended-l2', 'snapshots'], async (bytes) => {
    const request = openRequest(memoryStorage('hostile', bytes), true, { gate: emptyGate });
    const editor = await openQcow2Snapshots(request);
    await editor.create('new');
    const [{ id, name }] = await editor.list();
    await editor.apply(id);
    await editor.delete({ id, name });
    await editor.close();
  });
});
