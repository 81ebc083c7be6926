import { ImageError } from '../core/errors.ts';
import type { Storage, StorageOpenOptions } from './storage.ts';

/** A protocol node as a user describes it: `file.driver=…,file.filename=…`, or what a filename stands for. */
export interface ProtocolSpec {
  driver: string;
  filename?: string;
  /** The protocol's own options: text from the command line, or JSON values. */
  [option: string]: unknown;
}

/** A way to reach bytes. One entry of the registry in `storage/index.ts`. */
export interface Protocol {
  /** QEMU's name of the driver: `file`, `nbd`. */
  readonly name: string;
  /** Can make files; the others say no to `create`. */
  readonly creates: boolean;
  open(spec: ProtocolSpec, options: StorageOpenOptions): Promise<Storage>;
}

/** Refuses options that are neither among `known` nor the node's own name: none is ignored silently. */
export function checkOptions(spec: ProtocolSpec, known: readonly string[]): void {
  for (const key of Object.keys(spec)) {
    if (key === 'driver' || key === 'node-name' || known.includes(key)) continue;
    throw new ImageError('invalid', `Block protocol '${spec.driver}' doesn't support the option '${key}'`);
  }
}
