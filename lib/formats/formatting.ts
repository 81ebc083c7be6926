import type { AnyOptionValues } from '../core/options.ts';
import type { Driver } from './driver.ts';

/** Keys of the file protocol, behind those of the format. */
const PROTOCOL_ORDER = ['size', 'nocow', 'preallocation', 'extent_size_hint'];

export interface FormattingRequest {
  filename: string;
  driver: Driver;
  /** What the user wrote: truth values are shown as they were given. */
  given: Readonly<Record<string, string>>;
  /** All that holds, defaults and size included. */
  values: AnyOptionValues;
}

/** qemu-img's line `Formatting 'x', fmt=qcow2 cluster_size=65536 …`, without a line's end. */
export function formattingLine({ filename, driver, given, values }: FormattingRequest): string {
  const order = [...(driver.formattingOrder ?? [])];
  for (const key of [...PROTOCOL_ORDER, ...Object.keys(values).sort()]) if (!order.includes(key)) order.push(key);
  const pairs = order
    .filter((key) => values[key] !== undefined)
    .map((key) => `${key}=${shown(values[key], given[key])}`);
  return [`Formatting '${filename}', fmt=${driver.name}`, ...pairs].join(' ');
}

function shown(value: string | number | boolean | undefined, given: string | undefined): string {
  if (typeof value === 'boolean') return given ?? (value ? 'on' : 'off');
  return String(value).replaceAll(',', ',,');
}
