export { createVdi } from './create.ts';
export { openVdiTarget } from './open.ts';
