import { defineOptions } from '../../core/options.ts';
import { luksOptions } from '../encryption/luks-options.ts';

export { luksAmendOptions } from '../encryption/luks-options.ts';

/** The keys of `-o`, in the order of its help. */
export const luksCreateOptions = defineOptions({
  ...luksOptions,
  size: { type: 'size', help: 'Virtual disk size' },
});

export const luksFormattingOrder = [
  'size',
  'key-secret',
  'cipher-alg',
  'cipher-mode',
  'ivgen-alg',
  'ivgen-hash-alg',
  'hash-alg',
  'iter-time',
];
