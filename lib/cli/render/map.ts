import type { MapEntry } from '../../pipelines/map.ts';

const COLUMN = 16;

/** The heading of `map`'s table. */
export function mapHeader(): string {
  return `${['Offset', 'Length', 'Mapped to'].map((title) => title.padEnd(COLUMN)).join('')}File\n`;
}

/** One run of data in the table; its `offset` is known. */
export function mapRow({ start, length, offset, filename }: MapEntry): string {
  return `${[start, length, offset ?? 0].map((each) => hexadecimal(each).padEnd(COLUMN)).join('')}${filename}\n`;
}

/** One entry of `--output=json`: a line, in a fixed order of keys. */
export function mapEntryToJson({ start, length, depth, present, zero, data, offset }: MapEntry): string {
  const place = offset === undefined ? '' : `, "offset": ${offset}`;
  return (
    `{ "start": ${start}, "length": ${length}, "depth": ${depth}, "present": ${present}, ` +
    `"zero": ${zero}, "data": ${data}${place}}`
  );
}

function hexadecimal(value: number): string {
  return value === 0 ? '0' : `0x${value.toString(16)}`;
}
