import { defineOptions } from '../../core/options.ts';

/**
 * The keys of `-o` in the order of `-o help`. What QEMU checks only while it creates is a string here, so
 * that the complaint comes after the line `Formatting …`, as qemu-img's does.
 */
export const qcow2CreateOptions = defineOptions({
  backing_file: { type: 'string', help: 'File name of a base image' },
  backing_fmt: { type: 'string', help: 'Image format of the base image' },
  cluster_size: { type: 'size', help: 'qcow2 cluster size', default: 65536 },
  compat: { type: 'string', help: 'Compatibility level (v2 [0.10] or v3 [1.1])' },
  compression_type: {
    type: 'string',
    help: 'Compression method used for image cluster compression',
    default: 'zlib',
  },
  data_file: { type: 'string', help: 'File name of an external data file' },
  data_file_raw: { type: 'bool', help: 'The external data file must stay valid as a raw image' },
  'encrypt.cipher-alg': { type: 'string', help: 'Name of encryption cipher algorithm' },
  'encrypt.cipher-mode': { type: 'string', help: 'Name of encryption cipher mode' },
  'encrypt.format': { type: 'string', help: "Encrypt the image, format choices: 'aes', 'luks'" },
  'encrypt.hash-alg': { type: 'string', help: 'Name of encryption hash algorithm' },
  'encrypt.iter-time': { type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
  'encrypt.ivgen-alg': { type: 'string', help: 'Name of IV generator algorithm' },
  'encrypt.ivgen-hash-alg': { type: 'string', help: 'Name of IV generator hash algorithm' },
  'encrypt.key-secret': { type: 'string', help: 'ID of secret providing qcow AES key or LUKS passphrase' },
  encryption: {
    type: 'bool',
    help: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
  },
  extended_l2: { type: 'bool', help: 'Extended L2 tables', default: false },
  lazy_refcounts: { type: 'bool', help: 'Postpone refcount updates', default: false },
  preallocation: { type: 'string', help: 'Preallocation mode (allowed values: off, metadata, falloc, full)' },
  refcount_bits: { type: 'number', help: 'Width of a reference count entry in bits', default: 16 },
  size: { type: 'size', help: 'Virtual disk size' },
});

/** The keys of the line `Formatting …`, in its order; those of the protocol follow. */
export const qcow2FormattingOrder = [
  'encryption',
  'encrypt.format',
  'encrypt.key-secret',
  'encrypt.cipher-alg',
  'encrypt.cipher-mode',
  'encrypt.ivgen-alg',
  'encrypt.ivgen-hash-alg',
  'encrypt.hash-alg',
  'encrypt.iter-time',
  'cluster_size',
  'extended_l2',
  'preallocation',
  'compression_type',
  'size',
  'compat',
  'backing_file',
  'backing_fmt',
  'data_file',
  'data_file_raw',
  'lazy_refcounts',
  'refcount_bits',
] as const;
