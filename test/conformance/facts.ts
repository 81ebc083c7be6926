import type { Driver } from '../../lib/formats/driver.ts';
import { bochsFixtures, cloopFixtures, dmgFixtures } from './made.ts';

/**
 * What the conformance suite must be told about a format: all else it reads off the driver's card. A format
 * that isn't listed gets `DEFAULTS`.
 */
export interface FormatFacts {
  /** Sets of `-o` options to go through everything with; `{image}` becomes the image's path. */
  optionSets: readonly Readonly<Record<string, string>>[];
  /** Guest sizes are rounded up to a multiple of this many bytes. */
  sizeUnit: number;
  /** Options without which no image can be made, and those that it is opened with: they go along with every set. */
  needs?: { create: Readonly<Record<string, string>>; open: Readonly<Record<string, string>> };
  /** What was never written reads as anything: the tests write zeros to a new disk first. */
  noisy?: boolean;
  /** Recognised before it is complete: nothing but the file's length tells an unfinished image. */
  alwaysRecognised?: boolean;
  /** Images made with these options have nothing at their start that tells what they are: they are opened by name. */
  unrecognised?: (options: Readonly<Record<string, string>>) => boolean;
  /** Options that `describe` must show, by the names they have in `-o`. */
  described?: readonly string[];
  /** The longest disk that these options allow, or that is worth trying; default 1 TiB. */
  longest?: (options: Readonly<Record<string, string>>) => number;
  /** The shortest disk; default 0. */
  smallest?: number;
  /** The header has no place for the backing file's format, which is probed. */
  forgetsBackingFormat?: boolean;
  /** Images made with these options can't have a backing file. */
  standsAlone?: (options: Readonly<Record<string, string>>) => boolean;
  /** The one format that backing files may have; default: any, and the tests take raw. */
  backingFormat?: string;
  /** Images for a format without `create`: made in `directory` by whoever can. */
  fixtures?: (directory: string) => Promise<readonly Fixture[]>;
}

export interface Fixture {
  path: string;
  /** What the disk reads as. */
  contents: Buffer;
}

const SECRET_ID = 'passphrase';
/** What the options of `needs` name. */
export const SECRETS: ReadonlyMap<string, string> = new Map([[SECRET_ID, 'open sesame']]);

/** The same for the command lines of qemu-img and qemu-io. */
export const SECRET_OBJECTS: readonly string[] = [...SECRETS].flatMap(([id, data]) => [
  '--object',
  `secret,id=${id},data=${data}`,
]);

/** Options as `-o` and `--image-opts` take them. */
export function pairsOf(options: Readonly<Record<string, string>>): string[] {
  return Object.entries(options).map(([key, value]) => `${key}=${value}`);
}

/** Of encrypted qcow and qcow2 images; plain ones may be opened with it, too. */
export const KEY = { 'encrypt.key-secret': SECRET_ID };

const DEFAULTS: FormatFacts = { optionSets: [{}], sizeUnit: 512 };

const FACTS: Readonly<Record<string, FormatFacts>> = {
  bochs: { ...DEFAULTS, fixtures: bochsFixtures },
  cloop: { ...DEFAULTS, fixtures: cloopFixtures },
  dmg: { ...DEFAULTS, fixtures: dmgFixtures },
  raw: {
    optionSets: [{}, { preallocation: 'falloc' }, { preallocation: 'full' }],
    sizeUnit: 512,
    alwaysRecognised: true,
  },
  qcow2: {
    optionSets: [
      {},
      { compat: '0.10', cluster_size: '4096' },
      { cluster_size: '512', refcount_bits: '1' },
      { cluster_size: '2097152' },
      { cluster_size: '16384', extended_l2: 'on' },
      { cluster_size: '4096', compression_type: 'zstd', refcount_bits: '64' },
      { cluster_size: '4096', lazy_refcounts: 'on', preallocation: 'metadata' },
      { cluster_size: '1024', preallocation: 'full', refcount_bits: '8' },
      { cluster_size: '4096', data_file: '{image}.data' },
      { cluster_size: '4096', data_file: '{image}.data', data_file_raw: 'on' },
      { cluster_size: '4096', 'encrypt.format': 'luks', 'encrypt.iter-time': '10', ...KEY },
      { cluster_size: '16384', 'encrypt.format': 'aes', extended_l2: 'on', ...KEY },
    ],
    needs: { create: {}, open: KEY },
    sizeUnit: 512,
    described: ['compat', 'cluster_size', 'refcount_bits', 'compression_type'],
    standsAlone: ({ data_file_raw, preallocation }) => data_file_raw === 'on' || preallocation !== undefined,
    longest({ cluster_size = '65536', data_file_raw }) {
      // A raw data file is mapped whole from the start: its L2 tables take space like preallocated ones.
      if (data_file_raw === 'on') return 2 ** 30;
      // An L1 table has at most 4 Mi entries, an L2 table takes a cluster.
      return 2 ** 22 * (Number(cluster_size) / 16) * Number(cluster_size);
    },
  },
  qcow: {
    optionSets: [{}, { 'encrypt.format': 'aes', ...KEY }],
    needs: { create: {}, open: KEY },
    sizeUnit: 512,
    smallest: 1,
    forgetsBackingFormat: true,
  },
  vpc: {
    // Else disks grow to the next geometry, which test/interop compares with qemu-img's.
    optionSets: [{ force_size: 'on' }, { force_size: 'on', subformat: 'fixed' }],
    sizeUnit: 512,
    unrecognised: ({ subformat }) => subformat === 'fixed',
  },
  vdi: { optionSets: [{}, { static: 'on' }], sizeUnit: 512 },
  luks: {
    optionSets: [{}, { 'cipher-alg': 'aes-128', 'cipher-mode': 'cbc', 'ivgen-alg': 'essiv', 'hash-alg': 'sha512' }],
    sizeUnit: 512,
    noisy: true,
    described: ['cipher-alg', 'cipher-mode', 'ivgen-alg', 'hash-alg'],
    needs: { create: { 'key-secret': SECRET_ID, 'iter-time': '10' }, open: { 'key-secret': SECRET_ID } },
  },
  parallels: {
    optionSets: [{}, { cluster_size: '512' }, { cluster_size: '31744' }, { cluster_size: '65536' }],
    sizeUnit: 512,
    // The BAT is there from the start.
    longest: ({ cluster_size = '1048576' }) => 2 ** 22 * Number(cluster_size),
  },
  qed: {
    optionSets: [
      {},
      { cluster_size: '4096', table_size: '1' },
      { cluster_size: '4096', table_size: '16' },
      { cluster_size: '1048576', table_size: '2' },
    ],
    sizeUnit: 512,
    described: ['cluster_size'],
    longest({ cluster_size = '65536', table_size = '4' }) {
      const entries = (Number(cluster_size) * Number(table_size)) / 8;
      return entries * entries * Number(cluster_size);
    },
  },
  vhdx: {
    optionSets: [
      {},
      { block_size: '1048576' },
      { block_size: '2097152', block_state_zero: 'off', log_size: '3145728' },
      { subformat: 'fixed' },
    ],
    sizeUnit: 512,
  },
  vmdk: {
    optionSets: [
      {},
      { zeroed_grain: 'on', adapter_type: 'lsilogic', hwversion: '13' },
      { subformat: 'monolithicFlat', compat6: 'on' },
      { subformat: 'twoGbMaxExtentSparse', toolsversion: '1' },
      { subformat: 'twoGbMaxExtentFlat' },
      { subformat: 'streamOptimized' },
      { subformat: 'streamOptimized', zeroed_grain: 'on' },
    ],
    sizeUnit: 512,
    standsAlone: ({ subformat = '' }) => subformat.endsWith('Flat'),
    backingFormat: 'vmdk',
    // Extents of 2 GiB: a file each.
    longest: ({ subformat = '' }) => (subformat.startsWith('twoGb') ? 2 ** 35 : 2 ** 42),
  },
};

export function factsOf({ name }: Driver): FormatFacts {
  return FACTS[name] ?? DEFAULTS;
}
