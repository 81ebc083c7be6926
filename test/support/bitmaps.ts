import { qcow2 } from '../../lib/formats/qcow2.ts';
import type { Target } from '../../lib/sinks/target.ts';
import type { Source } from '../../lib/sources/source.ts';
import type { Storage } from '../../lib/storage/storage.ts';
import { openRequest } from './requests.ts';

/** What can be asked of a bitmap: `marks` is null where it can't be relied on. */
export interface BitmapState {
  name: string;
  granularity: number;
  enabled: boolean;
  marks: { offset: number; length: number }[] | null;
}

export function openBitmapTarget(storage: Storage): Promise<Target> {
  return qcow2.openTarget!(openRequest(storage, true));
}

/** All persistent bitmaps of the image, and the size of its disk. */
export async function bitmapsOf(storage: Storage): Promise<{ size: number; bitmaps: BitmapState[] }> {
  const source = await qcow2.openSource(openRequest(storage, false));
  try {
    return { size: source.size, bitmaps: await statesOf(source) };
  } finally {
    await source.close();
  }
}

async function statesOf({ bitmaps: reader }: Source): Promise<BitmapState[]> {
  const states: BitmapState[] = [];
  for (const { name, granularity, enabled, inconsistent } of (await reader?.list()) ?? []) {
    const marks: BitmapState['marks'] = inconsistent ? null : [];
    if (marks !== null) for await (const range of reader!.ranges(name)) marks.push(range);
    states.push({ name, granularity, enabled, marks });
  }
  return states;
}
