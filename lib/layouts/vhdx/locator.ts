import { ensure, ImageError } from '../../core/errors.ts';
import { VHDX_PARENT_LOCATOR } from './constants.ts';
import { readGuid } from './guid.ts';

/** Where the parent of a differencing disk is, and which state of it is meant (section 2.6.2.6). */
export interface ParentLocator {
  /** The parent's DataWriteGuid, or two that are right; lower case, without braces. */
  linkages: string[];
  /** The keys as they are, backslashes and all. */
  relativePath: string | null;
  volumePath: string | null;
  absolutePath: string | null;
}

const COUNT_AT = 18;
const ENTRIES_AT = 20;
const ENTRY_LENGTH = 12;
/** Within an entry; offsets count from the item's start. */
const At = { keyOffset: 0, valueOffset: 4, keyLength: 8, valueLength: 10 } as const;

/** Decodes the item. `unsupported` for a locator of another type. */
export function decodeParentLocator(item: Buffer): ParentLocator {
  ensure(item.length >= ENTRIES_AT, 'The parent locator is cut off');
  const type = readGuid(item, 0);
  if (type !== VHDX_PARENT_LOCATOR) throw new ImageError('unsupported', `Unknown type of VHDX parent locator: ${type}`);
  const count = item.readUInt16LE(COUNT_AT);
  ensure(ENTRIES_AT + count * ENTRY_LENGTH <= item.length, 'The parent locator is cut off');
  const values = new Map<string, string>();
  for (let index = 0; index < count; index += 1) {
    const at = ENTRIES_AT + index * ENTRY_LENGTH;
    const key = textAt(item, item.readUInt32LE(at + At.keyOffset), item.readUInt16LE(at + At.keyLength));
    values.set(key, textAt(item, item.readUInt32LE(at + At.valueOffset), item.readUInt16LE(at + At.valueLength)));
  }
  const linkages = [values.get('parent_linkage'), values.get('parent_linkage2')].filter((each) => each !== undefined);
  return {
    linkages: linkages.map((each) => each.replace(/[{}]/g, '').toLowerCase()),
    relativePath: values.get('relative_path') ?? null,
    volumePath: values.get('volume_path') ?? null,
    absolutePath: values.get('absolute_win32_path') ?? null,
  };
}

function textAt(item: Buffer, offset: number, length: number): string {
  ensure(offset + length <= item.length, 'A value of the parent locator lies outside it');
  return item.toString('utf16le', offset, offset + length);
}

/**
 * The parent's filename as this system writes it. Windows' absolute paths lead nowhere here: of these the last part
 * counts, so the parent is looked for beside its child. Null where the locator names none.
 */
export function parentFilename({ relativePath, absolutePath, volumePath }: ParentLocator): string | null {
  if (relativePath !== null && relativePath !== '') return plain(relativePath.replaceAll('\\', '/'));
  const absolute = absolutePath || volumePath;
  if (!absolute) return null;
  const name = absolute.slice(Math.max(absolute.lastIndexOf('\\'), absolute.lastIndexOf('/')) + 1);
  return name === '' ? null : plain(name);
}

/** Without `./`, except where a colon would make the name look like one with a protocol. */
function plain(path: string): string {
  const bare = path.replace(/^(\.\/)+/, '');
  return /^[^/]*:/.test(bare) ? `./${bare}` : bare;
}
