/** The protocols: the places where images can lie. */
import { ImageError } from '../core/errors.ts';
import { fileProtocol, hostDeviceProtocol } from './file-protocol.ts';
import { nullProtocol } from './null.ts';
import type { Protocol, ProtocolSpec } from './protocol.ts';
import type { Storage, StorageOpenOptions } from './storage.ts';

export { checkFileTuning, type FileTuning, fileCreateOptions, tuneNewFile } from './file-protocol.ts';
export type { Protocol, ProtocolSpec } from './protocol.ts';

const protocols: Protocol[] = [fileProtocol, hostDeviceProtocol, nullProtocol('null-co'), nullProtocol('null-aio')];

/** Adds a protocol, or replaces the one of that name. */
export function registerProtocol(protocol: Protocol): void {
  const index = protocols.findIndex(({ name }) => name === protocol.name);
  if (index >= 0) protocols[index] = protocol;
  else protocols.push(protocol);
}

/** The protocol that `spec` names; `invalid` where there is none. */
export function protocolNamed(spec: ProtocolSpec): Protocol {
  const protocol = protocols.find(({ name }) => name === spec.driver);
  if (protocol !== undefined) return protocol;
  const what = spec.filename?.startsWith(`${spec.driver}:`) ? 'protocol' : 'driver';
  throw new ImageError('invalid', `Unknown ${what} '${spec.driver}'`, { file: spec.filename });
}

/** Opens what `spec` describes; an ImageError in qemu-img's words where that is not possible. */
export async function openStorage(spec: ProtocolSpec, options: StorageOpenOptions = {}): Promise<Storage> {
  const protocol = protocolNamed(spec);
  if (options.create && !protocol.creates) {
    throw new ImageError('unsupported', `Protocol driver '${spec.driver}' does not support image creation`, {
      file: spec.filename,
      operation: 'create',
    });
  }
  return protocol.open(spec, options);
}
