/** VHDX's on-disk structures: [MS-VHDX]. */
export * from './bat.ts';
export * from './constants.ts';
export * from './guid.ts';
export * from './header.ts';
export * from './locator.ts';
export * from './log.ts';
export * from './metadata.ts';
export * from './regions.ts';
