import { CommandError } from './errors.ts';
import type { Output } from './output.ts';

const INT64_MAX = 2n ** 63n - 1n;
const SUFFIXES = 'BKMGTPE';

export interface SizeLimits {
  /** What the message calls it: `image size`. */
  what: string;
  min?: number;
  /** Default: the largest that qemu-img takes, 2^63 - 1. */
  max?: number;
}

/**
 * A size argument: decimal, perhaps with a fraction and one suffix of b, k, M, G, T, P, E, or hexadecimal.
 * Throws a CommandError in qemu-img's words. Results above 2^53 - 1 are refused.
 */
export function parseSize(text: string, limits: SizeLimits, output: Output): number {
  const { what, min = 0, max } = limits;
  const size = readSize(text, output);
  if (size === null) {
    throw new CommandError(
      `Invalid ${what} specified. You may use k, M, G, T, P or E suffixes for\n` +
        `${output.program}: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.`,
    );
  }
  const top = max === undefined ? INT64_MAX : BigInt(max);
  if (size < BigInt(min) || size > top) {
    throw new CommandError(`Invalid ${what} specified. Must be between ${min} and ${top}.`);
  }
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new CommandError(`Invalid ${what} specified. Must be between ${min} and ${Number.MAX_SAFE_INTEGER}.`);
  }
  return Number(size);
}

/** The bytes that a size argument says, whatever their number; null: it is none. A suffix to a hexadecimal number is warned of. */
export function readSize(text: string, output: Output): bigint | null {
  const hex = /^\s*\+?(0x[0-9a-f]+)(.*)$/i.exec(text);
  if (hex !== null) return readHexadecimal(text, hex[1], hex[2], output);
  const decimal = /^\s*\+?(\d+)(\.\d*)?([bkmgtpe]?)$/i.exec(text);
  if (decimal === null) return null;
  const [, whole, fraction = '', suffix] = decimal;
  const unit = 1024n ** BigInt(SUFFIXES.indexOf(suffix === '' ? 'B' : suffix.toUpperCase()));
  const part = fraction.length > 1 ? Number(fraction) : 0;
  // Half a byte is no size.
  if (part !== 0 && unit === 1n) return null;
  // Rounded to the nearest byte, as in double arithmetic.
  return BigInt(whole) * unit + BigInt(Math.floor(part * Number(unit) + 0.5));
}

function readHexadecimal(text: string, digits: string, suffix: string, output: Output): bigint | null {
  if (suffix === '') return BigInt(digits);
  const power = SUFFIXES.indexOf(suffix[0].toUpperCase());
  if (power < 0) return null;
  output.complain(`warning: Using a multiplier suffix on hex numbers is deprecated: ${text.trim()}`);
  return suffix.length > 1 ? null : BigInt(digits) * 1024n ** BigInt(power);
}
