import { ImageError } from '../core/errors.ts';

/** An object of parsed JSON whose members are not to be trusted: each is asked for by its type. */
export class JsonObject {
  readonly #members: Readonly<Record<string, unknown>>;
  /** For messages: `keyslots.0.kdf`. */
  readonly #path: string;

  private constructor(members: Readonly<Record<string, unknown>>, path: string) {
    this.#members = members;
    this.#path = path;
  }

  /** The object that `text` is; an ImageError `corrupt` where it is none. */
  static parse(text: string, what: string): JsonObject {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (cause) {
      throw new ImageError('corrupt', `${what} is not JSON`, { cause });
    }
    if (!isObject(value)) throw new ImageError('corrupt', `${what} is not a JSON object`);
    return new JsonObject(value, '');
  }

  has(key: string): boolean {
    return Object.hasOwn(this.#members, key);
  }

  keys(): string[] {
    return Object.keys(this.#members);
  }

  object(key: string): JsonObject {
    const value = this.#get(key);
    if (!isObject(value)) throw this.wrong(key, 'an object');
    return new JsonObject(value, this.#at(key));
  }

  text(key: string): string {
    const value = this.#get(key);
    if (typeof value !== 'string') throw this.wrong(key, 'text');
    return value;
  }

  /** A list of texts; empty where it is missing. */
  texts(key: string): string[] {
    const value = this.#get(key) ?? [];
    if (!Array.isArray(value) || !value.every((each) => typeof each === 'string'))
      throw this.wrong(key, 'list of text');
    return value;
  }

  /** A whole number between `least` and `most`. */
  integer(key: string, least: number, most: number): number {
    const value = this.#get(key);
    if (!Number.isSafeInteger(value) || (value as number) < least || (value as number) > most) {
      throw this.wrong(key, `a number from ${least} to ${most}`);
    }
    return value as number;
  }

  /** A number below 2^53 as decimal digits, which is how JSON keeps 64 bits. */
  decimal(key: string): number {
    const digits = this.text(key);
    const value = /^\d{1,16}$/.test(digits) ? Number(digits) : Number.NaN;
    if (!Number.isSafeInteger(value)) throw this.wrong(key, 'decimal digits of a number below 2^53');
    return value;
  }

  /** Bytes in Base64, up to `most` of them. */
  bytes(key: string, most: number): Buffer {
    const text = this.text(key);
    const bytes = Buffer.from(text, 'base64');
    if (bytes.length === 0 || bytes.length > most || bytes.toString('base64') !== text) {
      throw this.wrong(key, `up to ${most} bytes in Base64`);
    }
    return bytes;
  }

  wrong(key: string, expected: string): ImageError {
    return new ImageError('corrupt', `The metadata's ${this.#at(key)} is not ${expected}`);
  }

  #get(key: string): unknown {
    return Object.hasOwn(this.#members, key) ? this.#members[key] : undefined;
  }

  #at(key: string): string {
    return this.#path === '' ? key : `${this.#path}.${key}`;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
