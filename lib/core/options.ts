import { ImageError } from './errors.ts';
import { parseUnsignedSize } from './units.ts';

/** How a value is written on the command line, and how `-o help` names it. */
export type OptionType = 'size' | 'number' | 'bool' | 'string' | 'choice';

/** One key of `-o`. */
export interface OptionSpec {
  readonly type: OptionType;
  /** One line for `-o help`. */
  readonly help: string;
  /** The legal values of a `choice`. */
  readonly choices?: readonly string[];
  /** Used when the key is not given. */
  readonly default?: string | number | boolean;
  /** QAPI's name of the key where a message differs from the option's (`compat` is `version`). */
  readonly alias?: string;
}

export type OptionSchema = Readonly<Record<string, OptionSpec>>;

type ValueOf<S extends OptionSpec> = S['type'] extends 'size' | 'number'
  ? number
  : S['type'] extends 'bool'
    ? boolean
    : S['choices'] extends readonly (infer C)[]
      ? C
      : string;

/** The TypeScript type of parsed options: keys with a default are always there. */
export type OptionValues<S extends OptionSchema> = {
  -readonly [K in keyof S as S[K] extends { default: unknown } ? K : never]: ValueOf<S[K]>;
} & {
  -readonly [K in keyof S as S[K] extends { default: unknown } ? never : K]?: ValueOf<S[K]>;
};

/** Parsed options of a schema not known at compile time. */
export type AnyOptionValues = Record<string, string | number | boolean | undefined>;

/** Declares a schema and keeps its literal type. */
export function defineOptions<const S extends OptionSchema>(schema: S): S {
  return schema;
}

/**
 * Parses textual or typed values by a schema and fills in defaults. Unknown keys and wrong values
 * are `invalid` ImageErrors, worded as qemu-img words them.
 */
export function parseOptions<S extends OptionSchema>(
  schema: S,
  given: Readonly<Record<string, unknown>>,
): OptionValues<S> {
  const values: AnyOptionValues = {};
  for (const key in schema) if (schema[key].default !== undefined) values[key] = schema[key].default;
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined) continue;
    const spec = Object.hasOwn(schema, key) ? schema[key] : undefined;
    if (spec === undefined) throw new ImageError('invalid', `Invalid parameter '${key}'`);
    values[key] = parseValue(spec.alias ?? key, spec, value);
  }
  return values as OptionValues<S>;
}

function parseValue(key: string, spec: OptionSpec, value: unknown): string | number | boolean {
  switch (spec.type) {
    case 'bool':
      return parseBool(key, value);
    case 'size':
      return typeof value === 'number' ? value : parseSizeOption(key, String(value));
    case 'number':
      return parseCount(key, value);
    case 'choice':
      if (!spec.choices?.includes(String(value))) {
        throw new ImageError('invalid', `Parameter '${key}' does not accept value '${String(value)}'`);
      }
      return String(value);
    case 'string':
      return String(value);
  }
}

function parseBool(key: string, value: unknown): boolean {
  if (value === true || value === 'on' || value === 'yes' || value === 'true' || value === 'y') return true;
  if (value === false || value === 'off' || value === 'no' || value === 'false' || value === 'n') return false;
  throw new ImageError('invalid', `Parameter '${key}' expects 'on' or 'off'`);
}

function parseCount(key: string, value: unknown): number {
  const text = String(value);
  const count = /^(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(count)) throw new ImageError('invalid', `Parameter '${key}' expects a number`);
  return count;
}

function parseSizeOption(key: string, text: string): number {
  const size = parseUnsignedSize(text);
  if (size === null) {
    throw new ImageError(
      'invalid',
      `Parameter '${key}' expects a non-negative number below 2^64\n` +
        'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n' +
        'and exabytes, respectively.',
    );
  }
  return size;
}
