import { readFile } from 'node:fs/promises';
import { fromSystemError } from '../core/errors.ts';
import type { Secrets } from '../crypto/secrets.ts';
import { CommandError, Done } from './errors.ts';
import { splitList } from './option-lists.ts';
import type { Output } from './output.ts';

/** Types that QEMU knows, but that have no meaning here. */
const FOREIGN_TYPES = new Set(
  `authz-list authz-pam authz-simple can-bus can-host-socketcan colo-compare cryptodev-backend
  cryptodev-backend-builtin cryptodev-vhost-user dbus-vmstate filter-buffer filter-dump filter-mirror filter-redirector
  filter-replay filter-rewriter input-barrier input-linux iothread main-loop memory-backend-epc memory-backend-file
  memory-backend-memfd memory-backend-ram pef-guest pr-manager-helper qtest rng-builtin rng-egd rng-random
  s390-pv-guest secret_keyring sev-guest thread-context throttle-group tls-cipher-suites tls-creds-anon tls-creds-psk
  tls-creds-x509 x-remote-object x-vfio-user-server`.split(/\s+/),
);
const SECRET_PROPERTIES = ['data', 'file', 'format', 'iv', 'keyid', 'loaded', 'qom-type', 'id'];
const IDENTIFIER = /^[a-z][a-z0-9._-]*$/i;

/** `--object`: QEMU's user creatable objects of one command line. This version knows secrets. */
export class ObjectList {
  readonly #secrets = new Map<string, Buffer>();
  readonly #pending: Record<string, string>[] = [];
  readonly #exitCode: number;

  /** @param exitCode of a wrong definition */
  constructor(exitCode = 1) {
    this.#exitCode = exitCode;
  }

  /** Takes one `--object`; what needs no file is checked at once. Throws a CommandError, or Done after `help`. */
  add(definition: string, output: Output): void {
    if (definition === 'help' || definition === '?') {
      output.write('List of user creatable objects:\n  secret\n');
      throw new Done();
    }
    const properties = this.#parse(definition);
    this.#check(properties);
    this.#pending.push(properties);
  }

  /** Reads the secrets' files. */
  async load(): Promise<Secrets> {
    for (const properties of this.#pending.splice(0)) {
      this.#secrets.set(properties.id, await this.#bytesOf(properties));
    }
    return this.#secrets;
  }

  #parse(definition: string): Record<string, string> {
    if (definition.startsWith('{')) return this.#parseJson(definition);
    const properties: Record<string, string> = Object.create(null);
    splitList(definition).forEach((element, index) => {
      const equals = element.indexOf('=');
      if (equals > 0) properties[element.slice(0, equals)] = element.slice(equals + 1);
      else if (index === 0 && element !== '') properties['qom-type'] = element;
      else if (element === '' || equals === 0) this.#fail(`Invalid parameter '${element.slice(1)}'`);
      else this.#fail(`Expected '=' after parameter '${element}'`);
    });
    return properties;
  }

  #parseJson(text: string): Record<string, string> {
    const properties: Record<string, string> = Object.create(null);
    let parsed: Record<string, unknown> = {};
    try {
      parsed = JSON.parse(text);
    } catch {
      this.#fail('JSON parse error, invalid object definition');
    }
    for (const [key, value] of Object.entries(parsed)) properties[key] = String(value);
    return properties;
  }

  #check(properties: Record<string, string>): void {
    const { id, 'qom-type': type } = properties;
    if (type === undefined) this.#fail("Parameter 'qom-type' is missing");
    if (type !== 'secret' && !FOREIGN_TYPES.has(type)) {
      this.#fail(`Parameter 'qom-type' does not accept value '${type}'`);
    }
    if (id === undefined) this.#fail("Parameter 'id' is missing");
    if (type !== 'secret') this.#fail(`invalid object type: ${type}`);
    for (const key in properties) {
      if (!SECRET_PROPERTIES.includes(key)) this.#fail(`Parameter '${key}' is unexpected`);
    }
    const { format = 'raw', data, file, keyid } = properties;
    if (format !== 'raw' && format !== 'base64') this.#fail(`Parameter 'format' does not accept value '${format}'`);
    if (!IDENTIFIER.test(id)) {
      this.#fail(
        "Parameter 'id' expects an identifier\n" +
          "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
      );
    }
    if (properties.loaded !== undefined) this.#fail("Property 'secret.loaded' is not writable");
    if (data === undefined && file === undefined) this.#fail("Either 'file' or 'data' must be provided");
    if (data !== undefined && file !== undefined) this.#fail("'file' and 'data' are mutually exclusive");
    if (keyid !== undefined) this.#checkKey(keyid);
    if (data !== undefined && format === 'base64') this.#decode(data);
    if (this.#pending.some((other) => other.id === id)) {
      this.#fail(`attempt to add duplicate property '${id}' to object (type 'container')`);
    }
  }

  #checkKey(keyid: string): never {
    if (!this.#pending.some((other) => other.id === keyid)) this.#fail(`No secret with id '${keyid}'`);
    return this.#fail('Secrets that are encrypted by another secret are not supported');
  }

  async #bytesOf({ data, file, format }: Record<string, string>): Promise<Buffer> {
    if (data !== undefined) return format === 'base64' ? this.#decode(data) : Buffer.from(data);
    try {
      const bytes = await readFile(file);
      return format === 'base64' ? this.#decode(bytes.toString()) : bytes;
    } catch (error) {
      if (error instanceof CommandError) throw error;
      const { code, message } = fromSystemError(error);
      const step = code === 'EISDIR' ? 'Error reading file' : 'Failed to open file';
      return this.#fail(`Unable to read ${file}: ${step} “${file}”: ${message}`);
    }
  }

  #decode(text: string): Buffer {
    const compact = text.replace(/\s+/g, '');
    if (!/^[a-z0-9+/]*={0,2}$/i.test(compact)) this.#fail('Base64 data contains invalid characters');
    return Buffer.from(compact, 'base64');
  }

  #fail(message: string): never {
    throw new CommandError(message, this.#exitCode);
  }
}
