/** On-disk structures of QED: pure encoding and decoding. */
export * from './header.ts';
export * from './tables.ts';
