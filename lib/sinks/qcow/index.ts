export { createQcow } from './create.ts';
export { openQcowTarget } from './open.ts';
