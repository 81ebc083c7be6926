import { orderedEntries } from '../core/key-order.ts';
import type { NodeSpec } from '../sources/filename.ts';

/** Runtime options that change what a node's bytes are: without them its file's name says all. */
const TELLING_OPTIONS: ReadonlySet<string> = new Set([
  'offset',
  'size',
  'encrypt',
  'key-secret',
  'data-file',
  'backing',
  'force_size_calc',
]);

/**
 * The name that `info` shows for a node: the plain filename where that would open the same bytes, else a `json:`
 * description of what would.
 */
export function displayName(node: NodeSpec): string {
  const { driver, file, options } = node;
  const telling = Object.entries(options)
    .filter(([key]) => TELLING_OPTIONS.has(key))
    .flatMap(dotted);
  const { filename, driver: protocol, ...rest } = file;
  if (telling.length === 0 && filename !== undefined && !Object.keys(rest).some((key) => TELLING_OPTIONS.has(key))) {
    return filename;
  }
  if (driver === protocol) return `json:${compactJson({ ...file })}`;
  return `json:${compactJson({ driver: driver ?? 'raw', ...Object.fromEntries(telling), file: { ...file } })}`;
}

/** What are no nodes of their own, QEMU lists by dotted keys. */
function dotted([key, value]: [string, unknown]): [string, unknown][] {
  if (key !== 'encrypt' || typeof value !== 'object' || value === null) return [[key, value]];
  return Object.entries(value).map(([sub, each]) => [`${key}.${sub}`, each]);
}

function compactJson(value: unknown): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(compactJson).join(', ')}]`;
  const members = orderedEntries(value as Record<string, unknown>);
  return `{${members.map(([key, each]) => `${JSON.stringify(key)}: ${compactJson(each)}`).join(', ')}}`;
}
