import {
  Autoclear,
  type BitmapDirectoryEntry,
  Compatible,
  CryptMethod,
  decodeDataFileName,
  Incompatible,
} from '../../layouts/qcow2/index.ts';
import type { InfoValue, LayerInfo } from '../source.ts';
import { readBitmaps } from './bitmaps.ts';
import { describeEncryption } from './encryption.ts';
import { readSnapshots, snapshotInfo } from './snapshots.ts';
import type { Qcow2SourceOptions } from './source.ts';

/** What `info` shows, in the names and the order of QAPI's ImageInfoSpecificQCow2. */
export async function describeQcow2(image: Qcow2SourceOptions): Promise<LayerInfo> {
  const { header, geometry, storage } = image;
  const snapshots = await readSnapshots(storage, header);
  return {
    clusterSize: geometry.clusterSize,
    encrypted: header.cryptMethod !== CryptMethod.none,
    dirty: (header.incompatible & Incompatible.dirty) !== 0n,
    snapshots: snapshots.map((entry) => snapshotInfo(entry, header)),
    formatSpecific: { type: 'qcow2', data: await specifics(image) },
  };
}

async function specifics(image: Qcow2SourceOptions): Promise<{ [key: string]: InfoValue }> {
  const { header, geometry, tail } = image;
  const data: { [key: string]: InfoValue } = { compat: header.version === 2 ? '0.10' : '1.1' };
  if (header.version === 3) {
    if ((header.incompatible & Incompatible.dataFile) !== 0n) {
      const name = decodeDataFileName(tail.extensions);
      if (name !== null) data['data-file'] = name;
      data['data-file-raw'] = (header.autoclear & Autoclear.rawDataFile) !== 0n;
    }
    data['extended-l2'] = geometry.extendedL2;
    data['lazy-refcounts'] = (header.compatible & Compatible.lazyRefcounts) !== 0n;
    data['corrupt'] = (header.incompatible & Incompatible.corrupt) !== 0n;
  }
  data['refcount-bits'] = geometry.refcountBits;
  const encrypt = await describeEncryption(image);
  if (encrypt !== null) data['encrypt'] = encrypt;
  const bitmaps = await readBitmaps(image);
  if (bitmaps.length > 0) data['bitmaps'] = bitmaps.map(bitmapInfo);
  data['compression-type'] = header.compressionType;
  return data;
}

function bitmapInfo({ name, granularityBits, inUse, auto }: BitmapDirectoryEntry): InfoValue {
  const flags: string[] = [];
  if (inUse) flags.push('in-use');
  if (auto) flags.push('auto');
  return { name, granularity: 2 ** granularityBits, flags };
}
