import { alignUp, isPowerOfTwo } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import { type AnyOptionValues, defineOptions } from '../../core/options.ts';
import { ALIGNMENT, MAX_BLOCK_SIZE, MAX_DISK_SIZE, MIB } from '../../layouts/vhdx/index.ts';

const GIB = 1024 * MIB;

/**
 * The keys of `-o` in the order of `-o help`. `subformat` is a string here, so that the complaint about a wrong one
 * comes after the line `Formatting …`, as qemu-img's does.
 */
export const vhdxCreateOptions = defineOptions({
  block_size: {
    type: 'size',
    help: 'Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.',
    default: 0,
  },
  block_state_zero: {
    type: 'bool',
    help:
      "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to 'off' when using " +
      "'qemu-img convert' with subformat=dynamic.",
  },
  log_size: { type: 'size', help: 'Log size; min 1MB.', default: MIB },
  size: { type: 'size', help: 'Virtual disk size; max of 64TB.' },
  subformat: {
    type: 'string',
    help: "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
  },
});

/** The keys of the line `Formatting …`, in its order. */
export const vhdxFormattingOrder = ['size', 'log_size', 'block_size', 'subformat', 'block_state_zero'] as const;

/** Options of a new image, checked. Sizes in bytes. */
export interface VhdxSettings {
  blockSize: number;
  logSize: number;
  fixed: boolean;
  /** Blocks that were not written are said to be zeros, not just to be absent. */
  blockStateZero: boolean;
}

const MAX_LOG_SIZE = 4 * GIB;

/** Block sizes for disks of more than so many bytes, largest first. */
const BLOCK_SIZES = [
  { above: 32 * 1024 * GIB, blockSize: 64 * MIB },
  { above: 100 * GIB, blockSize: 32 * MIB },
  { above: GIB, blockSize: 16 * MIB },
  { above: -1, blockSize: 8 * MIB },
] as const;

/** Checks the parsed options of a disk of `size` bytes, in qemu-img's words. */
export function checkSettings(options: AnyOptionValues, size: number): VhdxSettings {
  if (size > MAX_DISK_SIZE) throw refuse('Image size too large; max of 64TB');
  const logSize = alignUp(Number(options.log_size), ALIGNMENT);
  if (logSize >= MAX_LOG_SIZE) throw refuse('Log size must be smaller than 4 GB');
  if (logSize === 0) throw refuse('Log size must be a multiple of 1 MB');
  const { subformat = 'dynamic' } = options;
  if (subformat !== 'dynamic' && subformat !== 'fixed') {
    throw refuse(`Parameter 'subformat' does not accept value '${String(subformat)}'`);
  }
  return {
    blockSize: blockSizeFor(Number(options.block_size), size),
    logSize,
    fixed: subformat === 'fixed',
    blockStateZero: options.block_state_zero !== false,
  };
}

function blockSizeFor(given: number, size: number): number {
  if (given === 0) return BLOCK_SIZES.find(({ above }) => size > above)?.blockSize ?? MIB;
  const blockSize = Math.min(MAX_BLOCK_SIZE, alignUp(given, MIB));
  if (!isPowerOfTwo(blockSize)) throw refuse('Block size must be a power of two');
  return blockSize;
}

function refuse(message: string): ImageError {
  return new ImageError('invalid', message, { format: 'vhdx', operation: 'create' });
}
