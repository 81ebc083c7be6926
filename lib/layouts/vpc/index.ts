export * from './blocks.ts';
export * from './dynamic-header.ts';
export * from './footer.ts';
export * from './geometry.ts';
export * from './parent-paths.ts';
