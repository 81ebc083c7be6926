import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { createImage } from '../../lib/formats/create.ts';
import {
  decodeBitmapDirectory,
  decodeBitmapsExtension,
  decodeHeader,
  decodeTail,
  ExtensionType,
  findExtension,
} from '../../lib/layouts/qcow2/index.ts';
import { checkQcow2 } from '../../lib/sinks/qcow2/check/index.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { bitmapsOf, openBitmapTarget } from '../support/bitmaps.ts';
import { Random } from '../support/model.ts';
import {
  type Field,
  fieldMutations,
  type Mutation,
  type Region,
  randomMutations,
  truncations,
} from '../support/mutate.ts';
import { openRequest } from '../support/requests.ts';

const SIZE = 3 * 1024 * 1024;
const RANDOM_MUTATIONS = 200;

async function* marks(): AsyncGenerator<{ offset: number; length: number }> {
  for (let offset = 5000; offset < SIZE - 512; offset += 100_000) yield { offset, length: 300 };
}

async function subject(): Promise<Buffer> {
  const memory = memoryStorage('image');
  const options = { cluster_size: '512' };
  const target = await createImage({ filename: 'image', format: 'qcow2', size: SIZE, options, storage: memory });
  await target.write(0, Buffer.alloc(5000, 1));
  await target.bitmaps!.add('one', { granularity: 512, marks: marks() });
  await target.bitmaps!.add('other', { granularity: 4096, disabled: true, marks: marks() });
  await target.close();
  return memory.bytes();
}

/** The extension, the directory's entries and the tables. */
function mutationsOf(bytes: Buffer): Mutation[] {
  const header = decodeHeader(bytes);
  const extension = findExtension(decodeTail(bytes, header).extensions, ExtensionType.bitmaps) as Buffer;
  const { count, directoryOffset, directoryBytes } = decodeBitmapsExtension(extension);
  const entries = decodeBitmapDirectory(bytes.subarray(directoryOffset, directoryOffset + directoryBytes), count);
  const extensionAt = bytes.indexOf(extension);
  const fields: Field[] = [
    { name: 'size', offset: 24, width: 8 },
    { name: 'autoclear', offset: 88, width: 8 },
    { name: 'extension length', offset: extensionAt - 4, width: 4 },
    { name: 'count', offset: extensionAt, width: 4 },
    { name: 'reserved', offset: extensionAt + 4, width: 4 },
    { name: 'directory size', offset: extensionAt + 8, width: 8 },
    { name: 'directory offset', offset: extensionAt + 16, width: 8 },
  ];
  const regions: Region[] = [
    { name: 'extension', offset: extensionAt - 8, length: extension.length + 8 },
    { name: 'directory', offset: directoryOffset, length: directoryBytes },
    { name: 'refcounts', offset: header.refcountTableOffset, length: 512 },
  ];
  for (let at = directoryOffset, index = 0; index < count; index += 1, at += 32) {
    fields.push(
      { name: `table offset ${index}`, offset: at, width: 8 },
      { name: `table entries ${index}`, offset: at + 8, width: 4 },
      { name: `flags ${index}`, offset: at + 12, width: 4 },
      { name: `type ${index}`, offset: at + 16, width: 1 },
      { name: `granularity ${index}`, offset: at + 17, width: 1 },
      { name: `name length ${index}`, offset: at + 18, width: 2 },
      { name: `extra data ${index}`, offset: at + 20, width: 4 },
      { name: `entry ${index}`, offset: entries[index].tableOffset, width: 8 },
    );
    regions.push({
      name: `table ${index}`,
      offset: entries[index].tableOffset,
      length: entries[index].tableEntries * 8,
    });
  }
  const extras = [0, 512, 1024, header.l1Offset, header.refcountTableOffset, directoryOffset, entries[0].tableOffset];
  return [
    ...fieldMutations(bytes, fields, extras.map(BigInt)),
    ...randomMutations(new Random(7), regions, RANDOM_MUTATIONS),
    ...truncations([directoryOffset, directoryOffset + 10, entries[0].tableOffset + 4]),
  ];
}

async function corruptionsOf(bytes: Buffer): Promise<number | null> {
  const request = openRequest(memoryStorage('checked', bytes), false);
  try {
    return (await checkQcow2({ ...request, repair: null, report: () => {} })).corruptions;
  } catch (error) {
    if (error instanceof ImageError) return null;
    throw error;
  }
}

/** Everything that can be done with bitmaps; a refusal of one thing does not keep from the next. */
async function useAll(bytes: Buffer): Promise<string[]> {
  const refusals: string[] = [];
  const attempt = async (work: () => Promise<unknown>) => {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      refusals.push(error.message);
    }
  };
  const copy = () => memoryStorage('spoiled', Buffer.from(bytes));
  await attempt(() => bitmapsOf(copy()));
  const wasSound = (await corruptionsOf(bytes)) === 0;
  const edit = (work: (target: Awaited<ReturnType<typeof openBitmapTarget>>) => Promise<void>) =>
    attempt(async () => {
      const memory = copy();
      const target = await openBitmapTarget(memory);
      await work(target).catch(async (error) => {
        await target.abort().catch(() => {});
        throw error;
      });
      await target.close();
      if (wasSound && (await corruptionsOf(memory.bytes())) !== 0) throw new Error('The edit made the image corrupt');
    });
  await edit(async ({ bitmaps }) => bitmaps!.merge('one', 'other'));
  await edit(async ({ bitmaps }) => bitmaps!.clear('one'));
  await edit(async ({ bitmaps }) => bitmaps!.remove('other'));
  await edit(async ({ bitmaps }) => bitmaps!.add('new'));
  await edit(async (target) => target.write(1000, Buffer.alloc(100_000, 2)));
  await edit(async (target) => target.truncate!(SIZE * 2));
  return refusals;
}

test('spoiled bitmaps are refused clearly, whatever is done with them', async (t) => {
  const bytes = await subject();
  t.deepEqual(await useAll(bytes), []);
  const mutations = mutationsOf(bytes);
  const problems: string[] = [];
  let refused = 0;
  for (const { name, apply } of mutations) {
    try {
      if ((await useAll(apply(Buffer.from(bytes)))).length > 0) refused += 1;
    } catch (error) {
      problems.push(`${name}: ${(error as Error).stack}`);
    }
  }
  t.deepEqual(problems, []);
  t.true(refused > mutations.length / 4, `${refused} of ${mutations.length}`);
});
