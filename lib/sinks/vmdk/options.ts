import { ImageError } from '../../core/errors.ts';
import { type AnyOptionValues, defineOptions } from '../../core/options.ts';

/**
 * The keys of `-o` in the order of `-o help`. What QEMU checks only while it creates is a string here, so that the
 * complaint comes after the line `Formatting …`, as qemu-img's does.
 */
export const vmdkCreateOptions = defineOptions({
  adapter_type: {
    type: 'string',
    help: 'Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX',
  },
  backing_file: { type: 'string', help: 'File name of a base image' },
  backing_fmt: { type: 'string', help: "Must be 'vmdk' if present" },
  compat6: { type: 'bool', help: 'VMDK version 6 image', default: false },
  hwversion: { type: 'string', help: 'VMDK hardware version', default: 'undefined' },
  size: { type: 'size', help: 'Virtual disk size' },
  subformat: {
    type: 'string',
    help:
      'VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | ' +
      'twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} ',
  },
  toolsversion: { type: 'string', help: 'VMware guest tools version' },
  zeroed_grain: { type: 'bool', help: 'Enable efficient zero writes using the zeroed-grain GTE feature' },
});

/** The keys of the line `Formatting …`, in its order; those of the protocol follow. */
export const vmdkFormattingOrder = [
  'size',
  'adapter_type',
  'backing_file',
  'backing_fmt',
  'compat6',
  'hwversion',
  'subformat',
  'toolsversion',
  'zeroed_grain',
] as const;

const SUBFORMATS = [
  'monolithicSparse',
  'monolithicFlat',
  'twoGbMaxExtentSparse',
  'twoGbMaxExtentFlat',
  'streamOptimized',
] as const;
export type Subformat = (typeof SUBFORMATS)[number];

const ADAPTERS = ['ide', 'lsilogic', 'buslogic', 'legacyESX'];
/** What VMware's own tools say of guests without them. */
const NO_TOOLS_VERSION = '2147483647';

/** Options that have been checked against each other. */
export interface VmdkSettings {
  subformat: Subformat;
  /** Extents are plain files. */
  flat: boolean;
  /** Extents of 2 GiB. */
  split: boolean;
  zeroGrains: boolean;
  adapterType: string;
  hwVersion: string;
  toolsVersion: string;
}

/** Checks the values of `vmdkCreateOptions`; an `invalid` ImageError in qemu-img's words for what can't be. */
export function checkSettings(options: AnyOptionValues, backingFormat: string | null | undefined): VmdkSettings {
  const adapterType = String(options.adapter_type ?? 'ide');
  if (!ADAPTERS.includes(adapterType)) throw invalid(`invalid parameter value: ${adapterType}`);
  const subformat = subformatOf(options.subformat);
  const hwVersion = String(options.hwversion ?? 'undefined');
  if (options.compat6 === true && hwVersion !== 'undefined') {
    throw invalid('compat6 cannot be enabled with hwversion set');
  }
  const flat = subformat.endsWith('Flat');
  const zeroGrains = options.zeroed_grain === true;
  const hasBacking = backingFormat !== undefined;
  if (hasBacking && flat) throw invalid("Flat image can't have backing file");
  if (flat && zeroGrains) throw invalid("Flat image can't enable zeroed grain");
  if (hasBacking && backingFormat !== 'vmdk') throw invalid('backing_file must be a vmdk image');
  return {
    subformat,
    flat,
    split: subformat.startsWith('twoGb'),
    zeroGrains,
    adapterType,
    hwVersion: hwVersion === 'undefined' ? (options.compat6 === true ? '6' : '4') : quotable('hwversion', hwVersion),
    toolsVersion: quotable('toolsversion', String(options.toolsversion ?? NO_TOOLS_VERSION)),
  };
}

function subformatOf(given: unknown): Subformat {
  const name = String(given ?? 'monolithicSparse');
  const found = SUBFORMATS.find((each) => each === name);
  if (found === undefined) throw invalid(`invalid parameter value: ${name}`);
  return found;
}

/** A text that goes into the descriptor: it must not end its line, or its quotes. */
export function quotable(key: string, text: string): string {
  const hasControls = [...text].some((each) => each < ' ' || each === '"');
  if (hasControls) throw invalid(`Parameter '${key}' contains characters that a descriptor can't hold`);
  return text;
}

function invalid(message: string): ImageError {
  return new ImageError('invalid', message, { format: 'vmdk', operation: 'create' });
}
