/**
 * Filenames and option strings as qemu-img takes them: `disk.img`, `file:disk.img`, `nbd:host:port`,
 * `json:{"driver": "qcow2", "file": {…}}` and `driver=qcow2,file.filename=disk.img`.
 */
import { ImageError } from '../core/errors.ts';
import type { ProtocolSpec } from '../storage/index.ts';
import { parseJsonFilename } from './json.ts';

/** One node of an image graph, as a user describes it: a format on a protocol. */
export interface NodeSpec {
  /** Format (or protocol) driver; null makes the opener probe. */
  driver: string | null;
  file: ProtocolSpec;
  /** Runtime options of the format, without `driver`, `file` and `backing`. */
  options: Record<string, unknown>;
  /** What replaces the header's backing file; null: none; undefined: as the header says. */
  backing: NodeSpec | string | null | undefined;
  /** What the user wrote, for messages. */
  filename: string;
}

type Nested = Record<string, unknown>;

/** Dotted keys deeper than this are nonsense; the bound keeps recursion over user input harmless. */
const MAX_NESTING = 64;

/**
 * A filename as given on the command line or found in a header. A colon before the first slash
 * names a protocol; `file:` is stripped, `json:` is parsed. Whether the protocol exists is for
 * the storage room to say, when the node is opened.
 */
export function parseFilename(text: string): NodeSpec {
  if (text.startsWith('json:')) return nodeOf(nest(parseJsonFilename(text)), text);
  return { driver: null, file: protocolOf(text), options: {}, backing: undefined, filename: text };
}

/** `parseFilename`, whose error says of which image, as that of opening it does. */
export function parseNamed(filename: string): NodeSpec {
  try {
    return parseFilename(filename);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    throw new ImageError(error.kind, `Could not open '${filename}': ${error.message}`, {
      file: filename,
      cause: error,
    });
  }
}

/** `--image-opts`: `key=value,key.sub=value`; a doubled comma stands for one. */
export function parseImageOpts(text: string): NodeSpec {
  return nodeOf(nest(parseOptionString(text, text)), text);
}

/** Whether a name is more than a path: a colon before any slash, as QEMU decides it. */
export function hasProtocol(text: string): boolean {
  return /^[^/:]*:/.test(text);
}

/** Splits `a=b,c=d` into pairs; `a` alone is `a=on`, `noa` is not treated specially. */
export function parseOptionString(text: string, filename = text): Record<string, string> {
  const pairs: Record<string, string> = Object.create(null);
  for (const part of splitDoubledCommas(text)) {
    const equals = part.indexOf('=');
    if (equals === 0) throw new ImageError('invalid', `Invalid parameter '${part}'`, { file: filename });
    if (equals > 0) {
      pairs[part.slice(0, equals)] = part.slice(equals + 1);
    } else if (Object.keys(pairs).length === 0) {
      throw noSuchNode(part, filename);
    } else {
      pairs[part] = 'on';
    }
  }
  return pairs;
}

function splitDoubledCommas(text: string): string[] {
  const parts: string[] = [];
  let current = '';
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] !== ',') {
      current += text[at];
    } else if (text[at + 1] === ',') {
      current += ',';
      at += 1;
    } else {
      parts.push(current);
      current = '';
    }
  }
  if (current !== '') parts.push(current);
  return parts;
}

function protocolOf(text: string): ProtocolSpec {
  const protocol = /^([^/:]*):/.exec(text)?.[1];
  if (protocol === undefined) return { driver: 'file', filename: text };
  if (protocol === 'file') return { driver: 'file', filename: text.slice('file:'.length) };
  return { driver: protocol, filename: text };
}

/** Turns dotted keys into nested objects; nested objects in the input are expanded too. */
function nest(flat: Nested, depth = 0): Nested {
  if (depth > MAX_NESTING) throw new ImageError('invalid', 'Options are nested too deeply');
  const root: Nested = Object.create(null);
  for (const [key, value] of Object.entries(flat)) {
    const path = key.split('.');
    if (path.length > MAX_NESTING) throw new ImageError('invalid', 'Options are nested too deeply');
    merge(root, path, isObject(value) ? nest(value, depth + path.length) : value);
  }
  return root;
}

function merge(root: Nested, path: string[], value: unknown): void {
  let into = root;
  for (const step of path.slice(0, -1)) {
    if (!isObject(into[step])) into[step] = Object.create(null);
    into = into[step] as Nested;
  }
  const last = path[path.length - 1];
  const there = into[last];
  if (isObject(there) && isObject(value)) {
    for (const key of Object.keys(value)) merge(there, [key], value[key]);
  } else {
    into[last] = value;
  }
}

function nodeOf(given: Nested, filename: string): NodeSpec {
  const { driver, file, backing, ...options } = given;
  if (driver !== undefined && typeof driver !== 'string') {
    throw new ImageError('invalid', `Invalid parameter type for 'driver', expected: string`, { file: filename });
  }
  if (typeof file === 'string') throw noSuchNode(file, filename);
  if (file === undefined && driver === undefined) {
    throw new ImageError('invalid', 'Must specify either driver or file', { file: filename });
  }
  const node: NodeSpec = {
    driver: driver ?? null,
    file: file === undefined ? { driver: driver ?? 'file' } : fileOf(file, filename),
    options: { ...options },
    backing: backingOf(backing, filename),
    filename,
  };
  return file === undefined ? protocolNode(node) : node;
}

/** `driver=file,filename=x`: the protocol itself is the node; its options are the protocol's. */
function protocolNode(node: NodeSpec): NodeSpec {
  return { ...node, file: { driver: node.driver ?? 'file', ...node.options }, options: {} };
}

function fileOf(file: unknown, filename: string): ProtocolSpec {
  if (!isObject(file)) throw new ImageError('invalid', `Invalid parameter type for 'file'`, { file: filename });
  const { driver, ...rest } = file;
  const name = rest.filename;
  if (name !== undefined && typeof name !== 'string') {
    throw new ImageError('invalid', `Invalid parameter type for 'filename', expected: string`, { file: filename });
  }
  if (driver !== undefined && typeof driver !== 'string') {
    throw new ImageError('invalid', `Invalid parameter type for 'driver', expected: string`, { file: filename });
  }
  // Without a driver, the filename may carry a protocol, as on the command line.
  if (driver === undefined && name !== undefined) return { ...rest, ...protocolOf(name) };
  return { ...rest, driver: driver ?? 'file' };
}

function backingOf(backing: unknown, filename: string): NodeSpec | null | undefined {
  if (backing === undefined) return undefined;
  // The empty string is QEMU's old spelling of null.
  if (backing === null || backing === '') return null;
  if (isObject(backing)) return nodeOf(backing, displayName(backing, filename));
  throw noSuchNode(String(backing), filename);
}

/** The name of an inner node for messages: its file, where it has one. */
function displayName(node: Nested, outer: string): string {
  const name = isObject(node.file) ? node.file.filename : node.filename;
  return typeof name === 'string' ? name : outer;
}

function noSuchNode(name: string, filename: string): ImageError {
  return new ImageError('invalid', `Cannot find device='${name}' nor node-name='${name}'`, { file: filename });
}

function isObject(value: unknown): value is Nested {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
