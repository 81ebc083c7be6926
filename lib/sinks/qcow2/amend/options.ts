import { defineOptions } from '../../../core/options.ts';

/** The keys of `amend -o`. What QEMU checks only while it amends is a string here. */
export const qcow2AmendOptions = defineOptions({
  backing_file: { type: 'string', help: 'File name of a base image' },
  backing_fmt: { type: 'string', help: 'Image format of the base image' },
  compat: { type: 'string', help: 'Compatibility level (v2 [0.10] or v3 [1.1])' },
  data_file: { type: 'string', help: 'File name of an external data file' },
  data_file_raw: { type: 'bool', help: 'The external data file must stay valid as a raw image' },
  'encrypt.iter-time': { type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
  'encrypt.keyslot': { type: 'number', help: 'Select a single keyslot to modify explicitly' },
  'encrypt.new-secret': {
    type: 'string',
    help: 'New secret to set in the matching keyslots. Empty string to erase',
  },
  'encrypt.old-secret': { type: 'string', help: 'Select all keyslots that match this password' },
  'encrypt.state': { type: 'string', help: 'Select new state of affected keyslots (active/inactive)' },
  lazy_refcounts: { type: 'bool', help: 'Postpone refcount updates' },
  refcount_bits: { type: 'number', help: 'Width of a reference count entry in bits' },
  size: { type: 'size', help: 'Virtual disk size' },
});
