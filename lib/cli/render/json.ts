import { orderedEntries } from '../../core/key-order.ts';

/** What can be printed as JSON; numbers beyond 2^53 come as bigint. Undefined members are left out. */
export type Json =
  | string
  | number
  | bigint
  | boolean
  | null
  | readonly Json[]
  | { readonly [key: string]: Json | undefined };

/**
 * JSON text as qemu-img prints it: four spaces a level, keys in QEMU's order, everything beyond ASCII escaped,
 * and an empty list or object over two lines.
 */
export function renderJson(value: Json, depth = 0): string {
  if (typeof value === 'string') return renderString(value);
  if (typeof value !== 'object' || value === null) return String(value);
  const [open, close] = Array.isArray(value) ? '[]' : '{}';
  const inner = '    '.repeat(depth + 1);
  const members = Array.isArray(value)
    ? value.map((each) => inner + renderJson(each, depth + 1))
    : orderedEntries(value as Record<string, Json>).map(
        ([key, each]) => `${inner}${renderString(key)}: ${renderJson(each, depth + 1)}`,
      );
  const body = members.length === 0 ? '' : `${members.join(',\n')}\n`;
  return `${open}\n${body}${'    '.repeat(depth)}${close}`;
}

function renderString(text: string): string {
  // JSON.stringify escapes quotes, backslashes and C0 in the same way (but writes \u in lower case).
  return JSON.stringify(text)
    .replace(/\\\\|\\u[0-9a-f]{4}/g, (code) => (code[1] === 'u' ? `\\u${code.slice(2).toUpperCase()}` : code))
    .replace(/[\u007f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}`);
}
