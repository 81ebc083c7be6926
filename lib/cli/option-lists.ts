import { CommandError } from './errors.ts';
import type { Output } from './output.ts';

/**
 * The lists of options on the command line: `key=value,key=value`. A comma inside a value is doubled.
 * A key alone is a switch: `lazy_refcounts` is on, `nolazy_refcounts` off.
 */

/** One element of a list; `value` is null where there was no `=`. */
export interface ListElement {
  key: string;
  value: string | null;
}

export function parseOptionList(text: string): ListElement[] {
  return splitList(text).map((element) => {
    const equals = element.indexOf('=');
    if (equals < 0) return { key: element, value: null };
    return { key: element.slice(0, equals), value: element.slice(equals + 1) };
  });
}

/** Splits at single commas; doubled ones become plain commas. An empty text has no elements. */
export function splitList(text: string): string[] {
  if (text === '') return [];
  const elements = [''];
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] !== ',') elements[elements.length - 1] += text[at];
    else if (text[at + 1] === ',') {
      elements[elements.length - 1] += ',';
      at += 1;
    } else elements.push('');
  }
  return elements;
}

/** What several `-o` make together: checked one by one, read as one list. */
export class CreateOptionList {
  #texts: string[] = [];

  get given(): boolean {
    return this.#texts.length > 0;
  }

  /** Adds one `-o`; a list that begins or ends in a comma is refused. */
  add(text: string): void {
    const elements = splitList(text);
    if (elements.length === 0 || elements[0] === '' || elements.at(-1) === '') {
      throw new CommandError(`Invalid option list: ${text}`);
    }
    this.#texts.push(text);
  }

  /** Whether `help` or `?` is among them. */
  get wantsHelp(): boolean {
    return splitList(this.#texts.join(',')).some((element) => element === 'help' || element === '?');
  }

  /** Keys and their values; a later one wins. */
  values(): Record<string, string> {
    const values: Record<string, string> = Object.create(null);
    for (const { key, value } of parseOptionList(this.#texts.join(','))) {
      if (value !== null) values[key] = value;
      else if (key.startsWith('no')) values[key.slice(2)] = 'off';
      else values[key] = 'on';
    }
    return values;
  }
}

/** A value of `name`, given as `name` alone: deprecated, and said so. */
export function switchedOn(key: string, output: Output): { key: string; value: string } {
  const off = key.startsWith('no');
  const name = off ? key.slice(2) : key;
  const value = off ? 'off' : 'on';
  output.writeError(
    `${output.program}: warning: short-form boolean option '${key}' deprecated\nPlease use ${name}=${value} instead\n`,
  );
  return { key: name, value };
}
