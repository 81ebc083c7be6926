import { ImageError } from '../core/errors.ts';
import { defineOptions, parseOptions } from '../core/options.ts';
import { openFile } from './file.ts';
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
  return openFile(spec.filename, { ...options, cache: cacheOf(spec, options.cache ?? 'writeback') });
}

function checkRuntimeOptions(spec: ProtocolSpec, options: StorageOpenOptions): void {
  const unsupported = (what: string) => new ImageError('unsupported', what, { file: spec.filename });
  const aio = spec.aio ?? 'threads';
  if (aio === 'native' || aio === 'io_uring') throw unsupported(`aio=${aio} is not supported`);
  if (aio !== 'threads') throw new ImageError('invalid', `Parameter 'aio' does not accept value '${String(aio)}'`);
  const locking = spec.locking ?? 'auto';
  if (locking === 'on' || locking === true) throw unsupported('locking=on is not supported');
  if (locking !== 'auto' && locking !== 'off' && locking !== false) {
    throw new ImageError('invalid', `Parameter 'locking' does not accept value '${String(locking)}'`);
  }
  const { 'read-only': readOnly } = parseOptions(readOnlyOption, { 'read-only': spec['read-only'] });
  if (readOnly && (options.writable || options.create)) {
    throw new ImageError('refused', 'Block node is read-only', { file: spec.filename });
  }
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
  if (given['no-flush']) return 'unsafe';
  const through = mode === 'writethrough' || mode === 'directsync';
  const direct = given.direct ?? (mode === 'none' || mode === 'directsync');
  if (direct) return through ? 'directsync' : 'none';
  if (mode === 'unsafe' && given['no-flush'] === undefined) return 'unsafe';
  return through ? 'writethrough' : 'writeback';
}
