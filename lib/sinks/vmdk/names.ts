import { basename } from 'node:path';
import { SPLIT_BYTES } from '../../layouts/vmdk/index.ts';
import type { VmdkSettings } from './options.ts';

/** An extent to be made. */
export interface PlannedExtent {
  /** As the descriptor names it: it lies beside the descriptor. */
  filename: string;
  size: number;
}

/** The extents of a new image that has them apart, named as QEMU does: `x-flat.vmdk`, `x-s001.vmdk`, `x-f001.vmdk`. */
export function planExtents(name: string, size: number, { flat, split }: VmdkSettings): PlannedExtent[] {
  const own = basename(name);
  const dot = own.lastIndexOf('.');
  const [stem, suffix] = dot < 0 ? [own, ''] : [own.slice(0, dot), own.slice(dot)];
  if (!split) return size === 0 ? [] : [{ filename: `${stem}-flat${suffix}`, size }];
  const extents: PlannedExtent[] = [];
  for (let start = 0; start < size; start += SPLIT_BYTES) {
    const number = String(extents.length + 1).padStart(3, '0');
    extents.push({
      filename: `${stem}-${flat ? 'f' : 's'}${number}${suffix}`,
      size: Math.min(SPLIT_BYTES, size - start),
    });
  }
  return extents;
}
