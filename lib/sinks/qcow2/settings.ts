import { isPowerOfTwo } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import { COMPRESSION_TYPES, type CompressionType } from '../../layouts/qcow2/index.ts';
import { type LuksSettings, parseLuksOptions } from '../encryption/luks.ts';
import { type WantedEncryption, wantedEncryption } from '../encryption/wanted.ts';

const PREALLOCATIONS = ['off', 'metadata', 'falloc', 'full'] as const;
export type Preallocation = (typeof PREALLOCATIONS)[number];

const VERSIONS: Readonly<Record<string, 2 | 3>> = { v2: 2, '0.10': 2, v3: 3, '1.1': 3 };
const MIN_EXTENDED_CLUSTER = 16384;

/** Options that have been checked against each other. */
export interface Qcow2Settings {
  version: 2 | 3;
  clusterSize: number;
  refcountBits: number;
  lazyRefcounts: boolean;
  extendedL2: boolean;
  compressionType: CompressionType;
  preallocation: Preallocation;
  dataFile: string | null;
  dataFileRaw: boolean;
  encryption: Qcow2Encryption | null;
}

/** How a new image shall be encrypted; what LUKS is to be made of. */
export interface Qcow2Encryption extends WantedEncryption {
  luks: LuksSettings | null;
}

/** Checks the values of `qcow2CreateOptions`; an `invalid` ImageError in qemu-img's words for what can't be. */
export function checkSettings(options: AnyOptionValues, hasBacking: boolean): Qcow2Settings {
  const version = choose('version', options.compat ?? 'v3', VERSIONS);
  const encryption = wantedEncryption(options);
  const settings: Qcow2Settings = {
    version,
    encryption: encryption && withLuks(encryption),
    clusterSize: Number(options.cluster_size ?? 65536),
    refcountBits: Number(options.refcount_bits ?? 16),
    lazyRefcounts: options.lazy_refcounts === true,
    extendedL2: options.extended_l2 === true,
    compressionType: choose('compression-type', options.compression_type ?? 'zlib', byName(COMPRESSION_TYPES)),
    preallocation: choose('preallocation', options.preallocation ?? 'off', byName(PREALLOCATIONS)),
    dataFile: options.data_file === undefined ? null : String(options.data_file),
    dataFileRaw: options.data_file_raw === true,
  };
  checkClusters(settings);
  checkBacking(settings, hasBacking);
  checkRefcounts(settings);
  checkDataFile(settings, hasBacking);
  if (settings.compressionType !== 'zlib') needsV3(settings, 'Non-zlib compression type is only supported with');
  // A raw data file shows the guest's bytes where the guest has them: all its clusters exist from the start.
  if (settings.dataFileRaw && settings.preallocation === 'off') settings.preallocation = 'metadata';
  return settings;
}

function withLuks(wanted: WantedEncryption): Qcow2Encryption {
  return { ...wanted, luks: wanted.format === 'luks' ? parseLuksOptions(wanted.values) : null };
}

function choose<T>(name: string, value: unknown, choices: Readonly<Record<string, T>>): T {
  const text = String(value);
  if (!Object.hasOwn(choices, text)) throw invalid(`Parameter '${name}' does not accept value '${text}'`);
  return choices[text];
}

function byName<const T extends readonly string[]>(names: T): Record<string, T[number]> {
  return Object.fromEntries(names.map((name) => [name, name]));
}

function checkClusters(settings: Qcow2Settings): void {
  const { clusterSize } = settings;
  if (!isPowerOfTwo(clusterSize) || clusterSize < 512 || clusterSize > 2 * 1024 * 1024) {
    throw invalid('Cluster size must be a power of two between 512 and 2048k');
  }
  if (!settings.extendedL2) return;
  needsV3(settings, 'Extended L2 entries are only supported with');
  if (clusterSize < MIN_EXTENDED_CLUSTER) {
    throw invalid(
      `Extended L2 entries are only supported with cluster sizes of at least ${MIN_EXTENDED_CLUSTER} bytes`,
    );
  }
}

function checkBacking(settings: Qcow2Settings, hasBacking: boolean): void {
  if (hasBacking && settings.preallocation !== 'off' && !settings.extendedL2) {
    throw invalid('Backing file and preallocation can only be used at the same time if extended_l2 is on');
  }
}

function checkRefcounts(settings: Qcow2Settings): void {
  if (settings.lazyRefcounts) needsV3(settings, 'Lazy refcounts only supported with');
  if (!isPowerOfTwo(settings.refcountBits) || settings.refcountBits > 64) {
    throw invalid('Refcount width must be a power of two and may not exceed 64 bits');
  }
  if (settings.version < 3 && settings.refcountBits !== 16) {
    throw invalid(
      'Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)',
    );
  }
}

function checkDataFile(settings: Qcow2Settings, hasBacking: boolean): void {
  if (settings.dataFile !== null) needsV3(settings, 'External data files are only supported with');
  if (settings.dataFileRaw && settings.dataFile === null) throw invalid('data-file-raw requires data-file');
  if (settings.dataFileRaw && hasBacking) {
    throw invalid('Backing file and data-file-raw cannot be used at the same time');
  }
}

function needsV3({ version }: Qcow2Settings, what: string): void {
  if (version < 3) throw invalid(`${what} compatibility level 1.1 and above (use version=v3 or greater)`);
}

function invalid(message: string): ImageError {
  return new ImageError('invalid', message, { format: 'qcow2', operation: 'create' });
}
