import { SaxesParser } from 'saxes';
import { ensure, ImageError } from '../../core/errors.ts';

/** Text is handed to the parser in pieces of this many characters. */
const PIECE = 1024 * 1024;
/** A property list of resources is five deep. */
const MAX_DEPTH = 32;

/** Values that can stand in a dictionary; in one, each follows a key. */
const CONTAINERS = new Set(['dict', 'array', 'plist']);

/**
 * The block tables of a property list ("resource-fork"/"blkx"/…/"Data" in an XML property list, PropertyList-1.0.dtd),
 * one after the other, as `use` is called with them. Throws a `corrupt` ImageError for what is no XML.
 */
export function blockTablesOf(plist: Buffer, use: (data: Buffer) => void): void {
  const walk = new PlistWalk(use);
  const parser = new SaxesParser();
  parser.on('opentag', ({ name }) => walk.open(name));
  parser.on('closetag', ({ name }) => walk.close(name));
  parser.on('text', (text) => walk.text(text));
  parser.on('error', (error) => {
    throw new ImageError('corrupt', `The property list is damaged: ${error.message.replace(/^undefined:/, 'line ')}`);
  });
  // Only keys and Base64 matter, so bytes beyond ASCII may stand for anything.
  for (let at = 0; at < plist.length; at += PIECE) parser.write(plist.toString('latin1', at, at + PIECE));
  parser.close();
}

/** Where the reader is: for each open container the key that it stands under. */
class PlistWalk {
  readonly #use: (data: Buffer) => void;
  readonly #path: string[] = [];
  /** The key read last in each open dictionary. */
  readonly #keys: string[] = [''];
  #text = '';

  constructor(use: (data: Buffer) => void) {
    this.#use = use;
  }

  open(name: string): void {
    this.#text = '';
    if (!CONTAINERS.has(name)) return;
    this.#path.push(this.#key());
    this.#keys.push('');
    ensure(this.#path.length <= MAX_DEPTH, 'The property list is nested too deeply');
  }

  text(text: string): void {
    this.#text += text;
  }

  close(name: string): void {
    if (CONTAINERS.has(name)) {
      this.#path.pop();
      this.#keys.pop();
    } else if (name === 'key') {
      this.#keys[this.#keys.length - 1] = this.#text;
    } else if (name === 'data' && this.#key() === 'Data' && this.#path.includes('blkx')) {
      this.#use(Buffer.from(this.#text, 'base64'));
    }
    this.#text = '';
  }

  #key(): string {
    return this.#keys[this.#keys.length - 1];
  }
}
