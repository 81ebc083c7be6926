import { doubleQuoted } from '../sources/json.ts';
import { FOREIGN_TYPES, type Member, type Members, OBJECT_TYPES } from './object-types.ts';
import { splitList } from './option-lists.ts';

/** A value as it was written: text in a list of `key=value`, anything in JSON. */
type Written = unknown;
type Dictionary = Record<string, Written>;

export type ObjectValue = string | boolean | { [key: string]: ObjectValue }[];

/** What one `--object` asks for; its values are of the types that OBJECT_TYPES says. */
export interface ObjectDefinition {
  type: string;
  id: string;
  values: Record<string, ObjectValue | undefined>;
}

const IDENTIFIER = /^[a-z][a-z0-9._-]*$/i;
const MAX_JSON = 1024 * 1024;

/** A definition makes no sense; the message is QEMU's, and never shows a value that may be secret. */
export class DefinitionError extends Error {}

/** `type,id=…,key=value` or JSON, checked as far as that needs no file. Throws a DefinitionError. */
export function parseDefinition(definition: string): ObjectDefinition {
  const json = definition.startsWith('{');
  const written = json ? parseJson(definition) : nest(parseList(definition));
  const visitor = new Visitor(json);
  const type = visitor.text(written, 'qom-type');
  if (!Object.hasOwn(OBJECT_TYPES, type) && !FOREIGN_TYPES.has(type)) {
    throw new DefinitionError(`Parameter 'qom-type' does not accept value '${type}'`);
  }
  const id = visitor.text(written, 'id');
  if (FOREIGN_TYPES.has(type)) throw new DefinitionError(`invalid object type: ${type}`);
  const { id: _id, 'qom-type': _type, ...rest } = written;
  const values = visitor.members(rest, OBJECT_TYPES[type], '');
  if (!IDENTIFIER.test(id)) {
    throw new DefinitionError(
      "Parameter 'id' expects an identifier\n" +
        "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
    );
  }
  return { type, id, values };
}

/** `key=value,…`; the first element may be the type alone. Dots stay in the keys. */
export function parseList(definition: string): Record<string, string> {
  const properties: Record<string, string> = Object.create(null);
  splitList(definition).forEach((element, index) => {
    const equals = element.indexOf('=');
    if (equals > 0) properties[element.slice(0, equals)] = element.slice(equals + 1);
    else if (index === 0 && element !== '') properties['qom-type'] = element;
    else if (element === '' || equals === 0) throw new DefinitionError(`Invalid parameter '${element.slice(1)}'`);
    else throw new DefinitionError(`Expected '=' after parameter '${element}'`);
  });
  return properties;
}

/** `rules.0.match` is the member `match` of the first of `rules`. */
function nest(flat: Record<string, string>): Dictionary {
  const root: Dictionary = Object.create(null);
  for (const [key, value] of Object.entries(flat)) {
    const path = key.split('.');
    const last = path.pop() as string;
    let place = root;
    for (const name of path) {
      if (!isDictionary(place[name])) place[name] = Object.create(null);
      place = place[name] as Dictionary;
    }
    place[last] = value;
  }
  return root;
}

function parseJson(text: string): Dictionary {
  try {
    if (text.length > MAX_JSON) throw new RangeError('The text is too long');
    const parsed = JSON.parse(doubleQuoted(text));
    return Object.assign(Object.create(null), parsed);
  } catch {
    // What the parser says may quote the text, and with it a secret.
    throw new DefinitionError('JSON parse error, invalid object definition');
  }
}

function isDictionary(value: Written): value is Dictionary {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Takes values out of what was written: strict about types in JSON, where a list has text only. */
class Visitor {
  readonly #json: boolean;

  constructor(json: boolean) {
    this.#json = json;
  }

  /** A text that must be there. */
  text(written: Dictionary, name: string): string {
    if (written[name] === undefined) throw new DefinitionError(`Parameter '${name}' is missing`);
    return this.#value(written[name], { type: 'string' }, name) as string;
  }

  members(written: Dictionary, members: Members, prefix: string): Record<string, ObjectValue> {
    const values: Record<string, ObjectValue> = {};
    for (const [key, member] of Object.entries(members)) {
      const value = written[key];
      if (value !== undefined) values[key] = this.#value(value, member, prefix + key);
      else if (member.required) throw new DefinitionError(`Parameter '${prefix}${key}' is missing`);
    }
    for (const key in written) {
      if (Object.hasOwn(members, key)) continue;
      throw new DefinitionError(`Parameter '${prefix}${key}' is unexpected`);
    }
    return values;
  }

  #value(written: Written, member: Member, name: string): ObjectValue {
    switch (member.type) {
      case 'bool':
        return this.#bool(written, name);
      case 'list':
        return this.#list(written, member.of, name);
      default: {
        if (isDictionary(written) && !this.#json) throw new DefinitionError(`Parameters '${name}.*' are unexpected`);
        if (typeof written !== 'string') throw this.#wrongType(name, 'string');
        if (member.type === 'string' || member.choices.includes(written)) return written;
        // An enumeration is named without the way to it.
        const short = name.slice(name.lastIndexOf('.') + 1);
        throw new DefinitionError(`Parameter '${short}' does not accept value '${written}'`);
      }
    }
  }

  #bool(written: Written, name: string): boolean {
    if (this.#json) {
      if (typeof written !== 'boolean') throw this.#wrongType(name, 'boolean');
      return written;
    }
    if (written === 'on' || written === 'yes' || written === 'true' || written === 'y') return true;
    if (written === 'off' || written === 'no' || written === 'false' || written === 'n') return false;
    throw new DefinitionError(`Parameter '${name}' expects 'on' or 'off'`);
  }

  #list(written: Written, members: Members, name: string): { [key: string]: ObjectValue }[] {
    return this.#elements(written, name).map((element, index) => {
      const at = this.#json ? `${name}[${index}]` : `${name}.${index}`;
      if (!isDictionary(element)) throw this.#wrongType(at, 'object');
      return this.members(element, members, `${at}.`);
    });
  }

  #elements(written: Written, name: string): Written[] {
    if (Array.isArray(written)) return written;
    if (this.#json || !isDictionary(written)) throw this.#wrongType(name, 'array');
    const keys = Object.keys(written);
    if (!keys.every((key) => /^\d+$/.test(key))) throw this.#wrongType(name, 'array');
    return keys.map((_, index) => {
      if (written[index] === undefined) throw new DefinitionError(`Parameter '${name}.${index}' missing`);
      return written[index];
    });
  }

  #wrongType(name: string, expected: string): DefinitionError {
    return new DefinitionError(`Invalid parameter type for '${name}', expected: ${expected}`);
  }
}
