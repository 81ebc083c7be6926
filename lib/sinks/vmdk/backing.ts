import type { BlockStore } from '../blocks/store.ts';

/** The chain below as an extent sees it that begins at guest offset `start`. */
export function backingFrom(backing: BlockStore['backing'], start: number): BlockStore['backing'] {
  if (backing === null || start === 0) return backing;
  return {
    get size() {
      return Math.max(0, backing.size - start);
    },
    read: (offset, buffer) => backing.read(start + offset, buffer),
  };
}
