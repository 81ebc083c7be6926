/** qcow2's on-disk structures: docs/interop/qcow2.txt. */
export * from './bitmaps.ts';
export * from './constants.ts';
export * from './entries.ts';
export * from './extensions.ts';
export * from './geometry.ts';
export * from './header.ts';
export * from './refcounts.ts';
export * from './snapshots.ts';
export * from './subclusters.ts';
