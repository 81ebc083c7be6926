/** qcow2's writing half. */
export { createQcow2, type Qcow2CreateRequest } from './create.ts';
export { measureQcow2 } from './measure.ts';
export { openQcow2Target, type Qcow2OpenRequest } from './open.ts';
export { qcow2CreateOptions, qcow2FormattingOrder } from './options.ts';
export { Qcow2Target } from './target.ts';
