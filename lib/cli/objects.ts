import { accessSync, closeSync, constants, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { fromSystemError, ImageError } from '../core/errors.ts';
import { type Secrets, secretBytes } from '../crypto/secrets.ts';
import { decodeBase64, secretUnwrapper } from '../crypto/wrapped-secret.ts';
import { CommandError, Done } from './errors.ts';
import { DefinitionError, type ObjectDefinition, parseDefinition, parseList } from './object-definition.ts';
import { OBJECT_TYPES, PROPERTY_TYPES, UNSETTABLE } from './object-types.ts';
import { splitList } from './option-lists.ts';
import type { Output } from './output.ts';
import { argumentBytes } from './raw-arguments.ts';

/** Bytes; far more than any passphrase, and than `cryptsetup` takes of a key file. */
const MAX_SECRET_FILE = 16 * 1024 * 1024;

/**
 * `--object`: QEMU's user creatable objects of one command line. Secrets are used now; credentials and lists of who may
 * do what are checked, for storage that will need them. Each is made when its option is met, as qemu-img does, so that
 * one can name those before it. No message shows what a secret holds.
 */
export class ObjectList {
  readonly #secrets = new Map<string, Buffer | null>();
  readonly #exitCode: number;

  /** @param exitCode of a wrong definition */
  constructor(exitCode = 1) {
    this.#exitCode = exitCode;
  }

  /** Takes one `--object`, and reads the files that it names. Throws a CommandError, or Done after `help`. */
  add(definition: string, output: Output): void {
    if (askForHelp(definition, output)) throw new Done();
    try {
      const object = parseDefinition(definition);
      this.#secrets.set(object.id, this.#make(object, definition));
    } catch (error) {
      if (!(error instanceof DefinitionError || error instanceof ImageError)) throw error;
      throw new CommandError(error.message, this.#exitCode);
    }
  }

  /** What `key-secret` options of images can name. */
  async load(): Promise<Secrets> {
    return this.#secrets;
  }

  #make(object: ObjectDefinition, definition: string): Buffer | null {
    const { type, id, values } = object;
    if (values[UNSETTABLE] !== undefined) throw new DefinitionError(`Property '${type}.loaded' is not writable`);
    if (this.#secrets.has(id)) {
      throw new DefinitionError(`attempt to add duplicate property '${id}' to object (type 'container')`);
    }
    if (type === 'secret') return this.#secretOf(object, definition);
    if (type === 'tls-cipher-suites' && values.priority === undefined) {
      throw new DefinitionError("'priority' property is not set");
    }
    if (type in CREDENTIALS) checkCredentials(object);
    return null;
  }

  #secretOf({ id, values }: ObjectDefinition, definition: string): Buffer {
    const { data, file, keyid, iv, format } = values as Record<string, string | undefined>;
    if (data === undefined && file === undefined) throw new DefinitionError("Either 'file' or 'data' must be provided");
    if (data !== undefined && file !== undefined) throw new DefinitionError("'file' and 'data' are mutually exclusive");
    const bytes = file === undefined ? dataOf(data as string, definition) : readSecret(file);
    const decoded = () => (format === 'base64' ? decodeBase64(bytes.toString('latin1')) : bytes);
    if (keyid === undefined) return decoded();
    if (keyid === id) throw new DefinitionError(`Secret with id '${id}' has no data`);
    // Key and vector are looked at before the data are.
    const unwrap = secretUnwrapper(secretBytes(this.#secrets, keyid), iv);
    return unwrap(decoded());
  }
}

function askForHelp(definition: string, output: Output): boolean {
  const [type, ...rest] = splitList(definition);
  const alone = definition === 'help' || definition === '?';
  if (!alone && !rest.some((element) => element === 'help' || element === '?')) return false;
  if (!alone && Object.hasOwn(OBJECT_TYPES, type)) {
    output.write(`${type} options:\n`);
    const { [UNSETTABLE]: _, ...shown } = OBJECT_TYPES[type];
    for (const key of Object.keys(shown).sort()) {
      const kind = shown[key].type === 'bool' ? 'bool' : (PROPERTY_TYPES[key] ?? 'string');
      output.write(`  ${key}=<${kind}>\n`);
    }
  } else {
    output.write(
      `List of user creatable objects:\n${Object.keys(OBJECT_TYPES)
        .map((name) => `  ${name}\n`)
        .join('')}`,
    );
  }
  return true;
}

/** The bytes that were typed: in a list of `key=value` they need not be text. */
function dataOf(data: string, definition: string): Buffer {
  const typed = argumentBytes(definition);
  if (definition.startsWith('{') || typed.equals(Buffer.from(definition))) return Buffer.from(data);
  return Buffer.from(parseList(typed.toString('latin1')).data, 'latin1');
}

function readSecret(file: string): Buffer {
  try {
    return readBounded(file);
  } catch (error) {
    if (error instanceof DefinitionError) throw error;
    const { code, message } = fromSystemError(error);
    const step = code === 'EISDIR' ? 'Error reading file' : 'Failed to open file';
    throw new DefinitionError(`Unable to read ${file}: ${step} “${file}”: ${message}`);
  }
}

/** All of a file, which may be a pipe, but not one without an end. */
function readBounded(file: string): Buffer {
  const descriptor = openSync(file, 'r');
  try {
    const chunks: Buffer[] = [];
    for (let left = MAX_SECRET_FILE; ; ) {
      const chunk = Buffer.alloc(64 * 1024);
      const count = readSync(descriptor, chunk);
      if (count === 0) return Buffer.concat(chunks);
      left -= count;
      if (left < 0) throw new DefinitionError(`Unable to read ${file}: it is too long for a secret`);
      chunks.push(chunk.subarray(0, count));
    }
  } finally {
    closeSync(descriptor);
  }
}

/** Files that must lie in `dir`, by the endpoint that the credentials are for. */
const CREDENTIALS: Readonly<Record<string, { client: readonly string[]; server: readonly string[] }>> = {
  'tls-creds-psk': { client: ['keys.psk'], server: ['keys.psk'] },
  'tls-creds-x509': { client: ['ca-cert.pem'], server: ['ca-cert.pem', 'server-cert.pem', 'server-key.pem'] },
};

function checkCredentials({ type, values }: ObjectDefinition): void {
  const { dir, endpoint = 'client' } = values as Record<string, string | undefined>;
  if (dir === undefined) throw new DefinitionError("Missing 'dir' property value");
  for (const name of CREDENTIALS[type][endpoint as 'client' | 'server']) {
    const path = join(dir, name);
    try {
      accessSync(path, constants.R_OK);
    } catch (error) {
      throw new DefinitionError(`Unable to access credentials ${path}: ${fromSystemError(error).message}`);
    }
  }
}
