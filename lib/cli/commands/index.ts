import type { Command } from '../context.ts';

/** The commands, each loaded on first use, in the order of `--help`. */
export const COMMANDS: Readonly<Record<string, () => Promise<{ command: Command }>>> = {
  amend: () => import('./amend.ts'),
  bench: () => import('./bench.ts'),
  bitmap: () => import('./bitmap.ts'),
  check: () => import('./check.ts'),
  commit: () => import('./commit.ts'),
  compare: () => import('./compare.ts'),
  convert: () => import('./convert.ts'),
  create: () => import('./create.ts'),
  dd: () => import('./dd.ts'),
  info: () => import('./info.ts'),
  map: () => import('./map.ts'),
  measure: () => import('./measure.ts'),
  rebase: () => import('./rebase.ts'),
  resize: () => import('./resize.ts'),
  snapshot: () => import('./snapshot.ts'),
};
