import { ImageError } from '../core/errors.ts';
import { defineOptions, type OptionValues, parseOptions } from '../core/options.ts';
import { cacheWith } from '../storage/cache.ts';
import type { CacheMode } from '../storage/storage.ts';

/** Options that every node takes, whatever its format (QAPI, `BlockdevOptions`). */
const NODE_OPTIONS = defineOptions({
  'node-name': { type: 'string', help: 'Name of the node' },
  'read-only': { type: 'bool', help: 'Node is opened in read-only mode' },
  'auto-read-only': { type: 'bool', help: 'Node can become read-only if opening read-write fails' },
  'force-share': { type: 'bool', help: 'Always accept other writers' },
  'cache.direct': { type: 'bool', help: 'Bypass the host page cache' },
  'cache.no-flush': { type: 'bool', help: 'Ignore flush requests' },
  discard: { type: 'choice', choices: ['ignore', 'off', 'unmap', 'on'], help: 'Discard operation' },
  'detect-zeroes': { type: 'choice', choices: ['off', 'on', 'unmap'], help: 'Try to optimize zero writes' },
});

export interface NodeOptions {
  /** What is left for the format's driver. */
  options: Record<string, unknown>;
  /** `cache` as the node's own options change it. */
  cache: CacheMode;
  forceShare: boolean;
}

/**
 * Takes the options of every node out of a node's; what is left is the driver's. Options that would
 * change how an image is written are refused for a writable node, which has no way to honour them.
 */
export function takeNodeOptions(
  given: Readonly<Record<string, unknown>>,
  { cache, writable }: { cache: CacheMode; writable: boolean },
): NodeOptions {
  const options: Record<string, unknown> = {};
  const own: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(given)) {
    if (key === 'cache' && typeof value === 'object' && value !== null) {
      for (const [sub, setting] of Object.entries(value)) own[`cache.${sub}`] = setting;
    } else {
      (Object.hasOwn(NODE_OPTIONS, key) ? own : options)[key] = value;
    }
  }
  const values = parseOptions(NODE_OPTIONS, own);
  if (writable) refuseForWriting(values);
  const { 'cache.direct': direct, 'cache.no-flush': noFlush } = values;
  return { options, cache: cacheWith(cache, { direct, noFlush }), forceShare: values['force-share'] ?? false };
}

type Values = OptionValues<typeof NODE_OPTIONS>;

function refuseForWriting(values: Values): void {
  if (values['read-only'] && !values['auto-read-only']) {
    throw new ImageError('invalid', 'Block node is read-only');
  }
  const discard = values.discard;
  if (discard === 'ignore' || discard === 'off') {
    throw new ImageError('unsupported', `Option 'discard' with the value '${discard}' is not supported`);
  }
  const detect = values['detect-zeroes'];
  if (detect === 'on' || detect === 'unmap') {
    throw new ImageError('unsupported', `Option 'detect-zeroes' with the value '${detect}' is not supported`);
  }
}

/** Throws unless every key is one of `known`: the check that each driver makes of its runtime options. */
export function refuseUnknownOptions(
  format: string,
  options: Readonly<Record<string, unknown>>,
  known: readonly string[],
): void {
  const unknown = dottedKeys(options).find((key) => !known.includes(key) && !known.includes(key.split('.')[0]));
  if (unknown !== undefined) {
    throw new ImageError('invalid', `Block format '${format}' does not support the option '${unknown}'`, { format });
  }
}

function dottedKeys(options: Readonly<Record<string, unknown>>): string[] {
  return Object.entries(options).flatMap(([key, value]) =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? dottedKeys(value as Record<string, unknown>).map((sub) => `${key}.${sub}`)
      : [key],
  );
}
