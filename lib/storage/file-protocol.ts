import { statfs } from 'node:fs/promises';
import { ImageError } from '../core/errors.ts';
import { defineOptions, parseOptions } from '../core/options.ts';
import { cacheWith } from './cache.ts';
import { openFile } from './file.ts';
import { FileStorage } from './file-storage.ts';
import type { Locking } from './locks.ts';
import { checkOptions, type Protocol, type ProtocolSpec } from './protocol.ts';
import type { CacheMode, Storage, StorageOpenOptions } from './storage.ts';

/** The keys of `-o` that QEMU's file protocol adds to those of every format. */
export const fileCreateOptions = defineOptions({
  extent_size_hint: { type: 'size', help: 'Extent size hint for the image file, 0 to disable' },
  nocow: { type: 'bool', help: 'Turn off copy-on-write (valid only on btrfs)' },
  preallocation: { type: 'string', help: 'Preallocation mode (allowed values: off, falloc, full)' },
  size: { type: 'size', help: 'Virtual disk size' },
});

const RUNTIME_OPTIONS = ['filename', 'aio', 'locking', 'cache', 'read-only'];

/** Regular files; devices too, since a plain filename may be either. */
export const fileProtocol: Protocol = { name: 'file', creates: true, open: openHostFile };

/** Block and character devices. */
export const hostDeviceProtocol: Protocol = {
  name: 'host_device',
  creates: true,
  async open(spec, options) {
    const storage = await openHostFile(spec, { ...options, create: false });
    if (storage.protocol === 'host_device') return storage;
    await storage.close();
    throw new ImageError(
      'invalid',
      `'host_device' driver requires '${storage.name}' to be either a character or block device`,
      { file: storage.name, operation: 'open' },
    );
  },
};

async function openHostFile(spec: ProtocolSpec, options: StorageOpenOptions): Promise<Storage> {
  checkOptions(spec, RUNTIME_OPTIONS);
  if (typeof spec.filename !== 'string' || spec.filename === '') {
    throw new ImageError('invalid', `The '${spec.driver}' block driver requires a file name`);
  }
  checkRuntimeOptions(spec, options);
  return openFile(spec.filename, {
    ...options,
    cache: cacheOf(spec, options.cache ?? 'writeback'),
    locking: lockingOf(spec),
  });
}

function checkRuntimeOptions(spec: ProtocolSpec, options: StorageOpenOptions): void {
  const unsupported = (what: string) => new ImageError('unsupported', what, { file: spec.filename });
  const aio = spec.aio ?? 'threads';
  if (aio === 'native' || aio === 'io_uring') throw unsupported(`aio=${aio} is not supported`);
  if (aio !== 'threads') throw new ImageError('invalid', `invalid parameter value: ${String(aio)}`);
  const { 'read-only': readOnly } = parseOptions(readOnlyOption, { 'read-only': spec['read-only'] });
  if (readOnly && (options.writable || options.create)) {
    throw new ImageError('refused', 'Block node is read-only', { file: spec.filename });
  }
}

/** `json:` descriptions have truth values. */
function lockingOf({ locking = 'auto', filename }: ProtocolSpec): Locking {
  if (locking === 'auto') return locking;
  if (locking === 'on' || locking === true) return 'on';
  if (locking === 'off' || locking === false) return 'off';
  throw new ImageError('invalid', `invalid parameter value: ${String(locking)}`, { file: filename });
}

const readOnlyOption = defineOptions({ 'read-only': { type: 'bool', help: '', default: false } });
const cacheOptions = defineOptions({
  direct: { type: 'bool', help: '' },
  'no-flush': { type: 'bool', help: '' },
});

/** `cache.direct` and `cache.no-flush` of the node, over what `-t` or `-T` said. */
function cacheOf(spec: ProtocolSpec, mode: CacheMode): CacheMode {
  if (spec.cache === undefined) return mode;
  if (typeof spec.cache !== 'object' || spec.cache === null) {
    throw new ImageError('invalid', "Invalid parameter type for 'cache', expected: object");
  }
  const given = parseOptions(cacheOptions, spec.cache as Record<string, unknown>);
  return cacheWith(mode, { direct: given.direct, noFlush: given['no-flush'] });
}

/** Largest unit that an extent size hint can have: the field has 32 bits. */
const MAX_EXTENT_SIZE_HINT = 0xffff_ffff;
/** QEMU's default; it keeps files from fragmenting on file systems that heed it. */
const DEFAULT_EXTENT_SIZE_HINT = 1024 * 1024;

/** What `nocow` and `extent_size_hint` of `fileCreateOptions` say, parsed. */
export interface FileTuning {
  nocow?: unknown;
  extent_size_hint?: unknown;
}

/** Refuses wishes that make no sense; to be asked before a file is touched. */
export function checkFileTuning(storage: Storage, { extent_size_hint: hint = 0 }: FileTuning): void {
  if (Number(hint) <= MAX_EXTENT_SIZE_HINT) return;
  throw new ImageError('invalid', 'Extent size hint is too large', { file: storage.name, operation: 'create' });
}

/**
 * Applies `nocow` and `extent_size_hint` to a new file that is still empty. Both are wishes: a file system that
 * knows no such thing is no error, as with QEMU.
 */
export async function tuneNewFile(storage: Storage, { nocow, extent_size_hint: given }: FileTuning): Promise<void> {
  checkFileTuning(storage, { extent_size_hint: given });
  if (!(storage instanceof FileStorage) || storage.fixedSize) return;
  const hint = Number(given ?? DEFAULT_EXTENT_SIZE_HINT);
  // The default hint is only worth its system call where it is known to matter.
  if (hint > 0 && (given !== undefined || (await isXfs(storage.path)))) await storage.hintExtentSize(hint);
  if (nocow === true) await storage.disableCopyOnWrite();
}

// Linux <linux/magic.h>.
const XFS_SUPER_MAGIC = 0x58465342;

async function isXfs(path: string): Promise<boolean> {
  return statfs(path).then(
    ({ type }) => type === XFS_SUPER_MAGIC,
    () => false,
  );
}
