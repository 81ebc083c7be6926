export * from './constants.ts';
export * from './cowd.ts';
export * from './descriptor.ts';
export * from './header.ts';
export * from './markers.ts';
export * from './sesparse.ts';
