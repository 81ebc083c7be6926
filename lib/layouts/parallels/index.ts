/** On-disk structures of Parallels images: pure encoding and decoding. */
export * from './bat.ts';
export * from './extension.ts';
export * from './header.ts';
