import type { AnyOptionValues } from '../../core/options.ts';
import { tracePoint } from '../../core/trace.ts';
import type { Secrets } from '../../crypto/secrets.ts';
import { l1End, newQcowHeader, QcowCrypt, qcowGeometry } from '../../layouts/qcow.ts';
import { legacyAes } from '../../sources/encryption/legacy-aes.ts';
import { FirstTable } from '../../sources/qcow/index.ts';
import type { Source } from '../../sources/source.ts';
import type { Storage } from '../../storage/storage.ts';
import { BlockTarget } from '../blocks/target.ts';
import { wantedPassphrase } from '../encryption/wanted.ts';
import { startNewFile } from '../new-file.ts';
import { qcowEncryption } from './options.ts';
import { QcowStore } from './store.ts';

const traceCreate = tracePoint('qcow_create');

export interface QcowCreateRequest {
  storage: Storage;
  /** Guest size in bytes. */
  size: number;
  /** Values of `qcowCreateOptions`, and of the file protocol. */
  options: AnyOptionValues;
  backing: { filename: string; source: Source | null } | null;
  /** What `encrypt.key-secret` names. */
  secrets?: Secrets;
}

/**
 * Makes a new image in `storage` and returns it open for writing. Header and L1 table are written by `close`; until
 * then nobody takes the file for a disk. The backing file's format has no place in the header: readers probe.
 */
export async function createQcow(request: QcowCreateRequest): Promise<BlockTarget> {
  const { storage, size, options, backing, secrets } = request;
  const encryption = qcowEncryption(options);
  const backingFile = backing?.filename ?? null;
  const header = newQcowHeader(size, backingFile);
  const geometry = qcowGeometry(header);
  const passphrase = encryption === null ? null : wantedPassphrase(encryption, secrets);
  if (passphrase !== null) header.crypt = QcowCrypt.aes;
  await startNewFile(storage, options, 'qcow');
  if (traceCreate.enabled) traceCreate.emit({ file: storage.name, size, backing: backingFile });
  const end = l1End(header, geometry);
  await storage.zero(0, end);
  const store = new QcowStore({
    storage,
    head: { header, geometry, backingFile },
    l1: new FirstTable(geometry.l1Entries),
    fresh: true,
    end,
    backing: backing?.source ?? null,
    cipher: passphrase === null ? null : legacyAes(passphrase),
  });
  return new BlockTarget(store);
}
