export { createVhdx } from './create.ts';
export { openVhdxTarget } from './open.ts';
