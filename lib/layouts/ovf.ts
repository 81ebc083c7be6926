import { SaxesParser, type SaxesTagNS } from 'saxes';
import { ImageError } from '../core/errors.ts';

/** A disk of an appliance: a file of the package. */
export interface OvfDisk {
  /** The file's name, relative to the descriptor. */
  href: string;
  /** The file is cut into pieces named `href.000000000` and so on. */
  chunked: boolean;
}

const DISK_LIMIT = 1000;

/**
 * The disks of an OVF descriptor (DMTF DSP0243, sections 7.1 and 9.1), in its DiskSection's order. Disks without a file
 * are empty, and left out. A `corrupt` ImageError for what is no such descriptor.
 */
export function decodeOvf(text: string): OvfDisk[] {
  const files = new Map<string, OvfDisk>();
  const references: string[] = [];
  const parser = new SaxesParser({ xmlns: true });
  parser.on('opentag', (tag) => {
    const file = attribute(tag, 'id');
    const href = attribute(tag, 'href');
    if (tag.local === 'File' && file !== undefined && href !== undefined) {
      files.set(file, { href: unescaped(href), chunked: attribute(tag, 'chunkSize') !== undefined });
    }
    const reference = attribute(tag, 'fileRef');
    if (tag.local === 'Disk' && reference !== undefined) references.push(reference);
    if (files.size > DISK_LIMIT || references.length > DISK_LIMIT) throw damaged('it names too many files');
  });
  parser.on('error', (error) => {
    throw damaged(error.message.replace(/^undefined:/, 'line '));
  });
  parser.write(text).close();
  return references.map((reference) => {
    const disk = files.get(reference);
    if (disk === undefined) throw damaged(`a disk refers to file '${reference}', which it does not name`);
    return disk;
  });
}

/** The value of an attribute, whatever the prefix of its namespace. */
function attribute({ attributes }: SaxesTagNS, local: string): string | undefined {
  for (const each of Object.values(attributes)) if (each.local === local) return each.value;
  return undefined;
}

/** A reference is a URI: blanks in names are `%20`. */
function unescaped(href: string): string {
  try {
    return decodeURIComponent(href);
  } catch {
    return href;
  }
}

function damaged(reason: string): ImageError {
  return new ImageError('corrupt', `The appliance's OVF descriptor can't be read: ${reason}`);
}
