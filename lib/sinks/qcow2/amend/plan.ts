import { isPowerOfTwo } from '../../../core/binary.ts';
import { type ErrorKind, ImageError } from '../../../core/errors.ts';
import type { AnyOptionValues } from '../../../core/options.ts';
import {
  Autoclear,
  Compatible,
  CryptMethod,
  decodeBackingFormat,
  ExtensionType,
  findExtension,
  Incompatible,
} from '../../../layouts/qcow2/index.ts';
import type { Qcow2Image } from '../image.ts';
import { checkResize } from '../resize.ts';
import { checkRefcountWidth } from './refcount-width.ts';

/** What is to become of an image; null and undefined: as it is. */
export interface AmendPlan {
  version: 2 | 3;
  lazyRefcounts: boolean;
  refcountBits: number | null;
  /** The name of the data file in the header. */
  dataFile: string | null;
  /** The data file need no longer be a raw image. */
  clearRaw: boolean;
  size: number | null;
  /** Key slots of LUKS are to be changed. */
  keySlots: boolean;
}

const VERSIONS: Readonly<Record<string, 2 | 3>> = { v2: 2, '0.10': 2, v3: 3, '1.1': 3 };

/** Checks everything that was asked for, in qemu-img's words, before anything is changed. */
export async function planAmend(image: Qcow2Image, values: AnyOptionValues): Promise<AmendPlan> {
  const { header } = image;
  const keySlots = asksForKeySlots(image, values);
  refuseBacking(image, values);
  const refcountBits = parseRefcountBits(image, values);
  const version = values.compat === undefined ? versionOf(header.version) : parseVersion(String(values.compat));
  if (version < header.version) checkDowngrade(image, refcountBits ?? image.geometry.refcountBits);
  if (version < 3 && header.version < 3 && refcountBits !== null) {
    throw refused(
      'invalid',
      'Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)',
    );
  }
  const wasLazy = (header.compatible & Compatible.lazyRefcounts) !== 0n;
  // As with qemu-img, what the image has already is no wish.
  if (values.lazy_refcounts === true && !wasLazy && version < 3) {
    throw refused(
      'invalid',
      'Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)',
    );
  }
  const lazyRefcounts =
    version >= 3 && (values.lazy_refcounts === undefined ? wasLazy : values.lazy_refcounts === true);
  const size = values.size === undefined ? null : Number(values.size);
  if (size !== null && size !== header.size) await checkResize(image, size, 'off');
  if (refcountBits !== null) await checkRefcountWidth(image, refcountBits);
  return {
    version,
    refcountBits,
    lazyRefcounts,
    size: size === header.size ? null : size,
    keySlots,
    ...planDataFile(image, values),
  };
}

function versionOf(version: number): 2 | 3 {
  return version < 3 ? 2 : 3;
}

function parseVersion(text: string): 2 | 3 {
  if (!Object.hasOwn(VERSIONS, text)) throw refused('invalid', `Unknown compatibility level ${text}`);
  return VERSIONS[text];
}

function asksForKeySlots({ header }: Qcow2Image, values: AnyOptionValues): boolean {
  if (!Object.keys(values).some((key) => key.startsWith('encrypt.'))) return false;
  if (header.cryptMethod === CryptMethod.luks) return true;
  const isPlain = header.cryptMethod === CryptMethod.none;
  const why = isPlain
    ? "Can't amend encryption options - encryption not present"
    : 'Only LUKS encryption options can be amended';
  throw refused('invalid', why);
}

function refuseBacking({ tail }: Qcow2Image, { backing_file: file, backing_fmt: format }: AnyOptionValues): void {
  const changesFile = file !== undefined && file !== tail.backingFile;
  const changesFormat = format !== undefined && format !== decodeBackingFormat(tail.extensions);
  if (!changesFile && !changesFormat) return;
  throw refused('invalid', "Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.");
}

/** The width that the refcounts shall have; null: they have it. */
function parseRefcountBits({ geometry }: Qcow2Image, { refcount_bits: given }: AnyOptionValues): number | null {
  if (given === undefined) return null;
  const bits = Number(given);
  if (!isPowerOfTwo(bits) || bits > 64) {
    throw refused('invalid', 'Refcount width must be a power of two and may not exceed 64 bits');
  }
  return bits === geometry.refcountBits ? null : bits;
}

/** Version 2 lacks features that the image may need. */
function checkDowngrade({ header, tail, external }: Qcow2Image, refcountBits: number): void {
  if (refcountBits !== 16) throw refused('invalid', 'compat=0.10 requires refcount_bits=16');
  if (external) throw refused('invalid', 'Cannot downgrade an image with a data file');
  const incompatible = header.incompatible & ~Incompatible.dirty;
  if (incompatible !== 0n) {
    throw refused('invalid', `Cannot downgrade an image with incompatible features 0x${incompatible.toString(16)} set`);
  }
  if (header.snapshotCount > 0) throw refused('invalid', 'Internal snapshots prevent downgrade of image');
  // qemu-img goes on, and loses them.
  if (findExtension(tail.extensions, ExtensionType.bitmaps) !== null) {
    throw refused('refused', 'Persistent bitmaps prevent downgrade of image');
  }
}

function planDataFile(
  { external, header }: Qcow2Image,
  { data_file: name, data_file_raw: raw }: AnyOptionValues,
): Pick<AmendPlan, 'dataFile' | 'clearRaw'> {
  const isRaw = (header.autoclear & Autoclear.rawDataFile) !== 0n;
  if (name !== undefined && !external) {
    throw refused('invalid', 'data-file can only be set for images that use an external data file');
  }
  if (raw === true && !isRaw) throw refused('invalid', 'data-file-raw cannot be set on existing images');
  return { dataFile: name === undefined ? null : String(name), clearRaw: raw === false && isRaw };
}

function refused(kind: ErrorKind, message: string): ImageError {
  return new ImageError(kind, message, { format: 'qcow2', operation: 'amend' });
}
