const SUFFIXES = 'BKMGTPE';

/**
 * A size as qemu-img takes it: a decimal number, perhaps with a fraction, or a hexadecimal one, and
 * one suffix of b, k, M, G, T, P, E (either case, powers of 1024). Bytes without a suffix.
 * `null` for anything else, for what exceeds 2^53 - 1, and for a fraction of a byte count without suffix.
 */
export function parseUnsignedSize(text: string, defaultSuffix = 'B'): number | null {
  const match = /^\s*\+?(0x[0-9a-f]+|\d+(?:\.\d*)?|\.\d+)([bkmgtpe]?)$/i.exec(text);
  if (match === null) return null;
  const [, digits, suffix] = match;
  if (/^0x/i.test(digits)) return suffix === '' ? whole(Number(digits)) : null;
  const exponent = SUFFIXES.indexOf((suffix || defaultSuffix).toUpperCase());
  if (exponent === 0 && digits.includes('.')) return null;
  return whole(Math.floor(Number(digits) * 1024 ** exponent));
}

function whole(value: number): number | null {
  return Number.isSafeInteger(value) ? value : null;
}

/** Bytes for people, as qemu-img prints them: three significant digits and an IEC unit (`1.5 GiB`). */
export function formatSize(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
  // The unit changes at 1000, not at 1024, so that no more than three digits stand before the point.
  let index = 0;
  while (index < units.length - 1 && bytes / 1024 ** index >= 1000) index += 1;
  const value = bytes / 1024 ** index;
  const decimals = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
  return `${threeDigits(bytes, 1024n ** BigInt(index), decimals)} ${units[index]}`;
}

/** As C's `%.3g` has it: a tie goes to the even digit, and 999.5 becomes 1e+03. */
function threeDigits(bytes: number, unit: bigint, decimals: number): string {
  const scaled = BigInt(Math.round(bytes)) * 10n ** BigInt(decimals);
  let digits = scaled / unit;
  const rest = 2n * (scaled % unit);
  if (rest > unit || (rest === unit && digits % 2n === 1n)) digits += 1n;
  return decimals === 0 && digits === 1000n ? '1e+03' : String(Number(digits) / 10 ** decimals);
}
