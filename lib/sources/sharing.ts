import type { LockRequest } from '../storage/storage.ts';
import type { SourceDriver } from './source.ts';

/** What decides over the locks of an image's files. */
export interface Sharing {
  /** Only the header is looked at. */
  metadataOnly?: boolean;
  /** `-U`: others may do with the image what they want. Only for reading. */
  forceShare?: boolean;
  /** Nobody may write to the parts of the disk, though they lie plain. */
  denyWriters?: boolean;
}

/**
 * What a file has of an image: `structure` is its own structure, or also that; `data` a part of the disk, and `disk`
 * all of it, which is all that there is.
 */
export type FileRole = 'structure' | 'data' | 'disk';

/** The role of the file that an image of this format lies in. */
export function roleOf({ plain = false }: Pick<SourceDriver, 'plain'>): FileRole {
  return plain ? 'disk' : 'structure';
}

/**
 * The locks that QEMU's processes have on such a file, which /proc/locks shows of them: a file with structure has one
 * writer, or only readers; several may write to guest bytes that lie plain, but the length of a part is the image's.
 */
export function locksFor(role: FileRole, writable: boolean, sharing: Sharing = {}): LockRequest {
  const { metadataOnly = false, forceShare = false, denyWriters = false } = sharing;
  if (writable) {
    return {
      uses: role === 'disk' ? ['consistent read', 'write'] : ['consistent read', 'write', 'resize'],
      denies: role === 'structure' ? ['write', 'resize'] : role === 'data' ? ['resize'] : [],
    };
  }
  return {
    uses: metadataOnly ? [] : ['consistent read'],
    denies: forceShare ? [] : deniedByReaders(role, denyWriters),
  };
}

function deniedByReaders(role: FileRole, denyWriters: boolean): LockRequest['denies'] {
  if (role === 'disk') return [];
  return role === 'structure' || denyWriters ? ['write', 'resize'] : ['resize'];
}

/** The locks of a new image while it is being made. */
export function locksForMaking(role: FileRole): LockRequest {
  return role === 'disk' ? { uses: ['write', 'resize'], denies: ['resize'] } : locksFor(role, true);
}
