import type { CacheMode } from './storage.ts';

/** What a cache mode means for a file. */
export interface CacheTraits {
  /** Around the page cache. */
  direct: boolean;
  /** Each write waits for the disk. */
  through: boolean;
  /** A flush reaches the disk. */
  flushes: boolean;
}

const TRAITS: Readonly<Record<CacheMode, CacheTraits>> = {
  writeback: { direct: false, through: false, flushes: true },
  none: { direct: true, through: false, flushes: true },
  writethrough: { direct: false, through: true, flushes: true },
  directsync: { direct: true, through: true, flushes: true },
  unsafe: { direct: false, through: false, flushes: false },
  'unsafe-direct': { direct: true, through: false, flushes: false },
};

export function cacheTraits(mode: CacheMode): CacheTraits {
  return TRAITS[mode];
}

/** The mode as `cache.direct` and `cache.no-flush` of a node change it. */
export function cacheWith(mode: CacheMode, given: { direct?: boolean; noFlush?: boolean }): CacheMode {
  const { direct = TRAITS[mode].direct, noFlush = !TRAITS[mode].flushes } = given;
  if (noFlush) return direct ? 'unsafe-direct' : 'unsafe';
  if (TRAITS[mode].through) return direct ? 'directsync' : 'writethrough';
  return direct ? 'none' : 'writeback';
}
