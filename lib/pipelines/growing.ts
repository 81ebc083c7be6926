import { alignUp } from '../core/binary.ts';
import { ImageError } from '../core/errors.ts';
import type { Target } from '../sinks/target.ts';

const SECTOR = 512;
/** Steps are as large as this, or a quarter of the disk: growing all the time would hold up the writes. */
const MIN_STEP = 64 * 1024 * 1024;

/**
 * Lets a new target grow with what is written and zeroed; `close` gives it its size, which ends with the last of
 * that. For inputs whose end is not known: begin with a target of size 0.
 */
export function growing(target: Target): Target {
  const truncate = target.truncate?.bind(target);
  if (truncate === undefined) {
    throw new ImageError('unsupported', `A ${target.format} image can't be made without knowing its size`, {
      file: target.name,
      format: target.format,
      operation: 'create',
    });
  }
  const { write, writeMany, zero, writeCompressed, close } = target;
  let end = 0;
  let growth = Promise.resolve();
  const reach = async (to: number): Promise<void> => {
    end = Math.max(end, to);
    if (to <= target.size) return;
    const grow = async () => {
      const step = Math.max(MIN_STEP, target.size / 4);
      if (to > target.size) await truncate(alignUp(Math.max(to, target.size + step), SECTOR));
    };
    growth = growth.then(grow);
    await growth;
  };
  target.write = async (offset, buffer) => {
    await reach(offset + buffer.length);
    await write.call(target, offset, buffer);
  };
  if (writeMany !== undefined) {
    target.writeMany = async (writes) => {
      await reach(Math.max(...writes.map(({ offset, buffer }) => offset + buffer.length)));
      await writeMany.call(target, writes);
    };
  }
  target.zero = async (offset, length, options) => {
    await reach(offset + length);
    await zero.call(target, offset, length, options);
  };
  if (writeCompressed !== undefined) {
    target.writeCompressed = async (offset, length, packed) => {
      await reach(offset + length);
      await writeCompressed.call(target, offset, length, packed);
    };
  }
  target.close = async () => {
    const size = alignUp(end, SECTOR);
    if (size !== target.size) await truncate(size);
    await close.call(target);
  };
  return target;
}
