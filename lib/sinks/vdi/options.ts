import { defineOptions } from '../../core/options.ts';

/** The keys of `-o`. */
export const vdiCreateOptions = defineOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  static: { type: 'bool', help: 'VDI static (pre-allocated) image', default: false },
});

/** The keys of the line `Formatting …`, in its order; those of the protocol follow. */
export const vdiFormattingOrder = ['size', 'static'] as const;
