import { createGate } from '../../lib/sources/gate.ts';
import type { Gate, SourceRequest } from '../../lib/sources/source.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import type { Storage } from '../../lib/storage/storage.ts';

/** Opens no file at all. */
export const closedGate: Gate = {
  openStorage: () => Promise.reject(new Error('No image here refers to another file')),
};

/** Whatever is referred to is there, and empty. */
export const emptyGate: Gate = { openStorage: async (reference) => memoryStorage(reference) };

interface Facts {
  options?: SourceRequest['options'];
  gate?: Gate;
}

/** What a driver is asked to open an image with, for reading or for writing, alone. */
export function openRequest(storage: Storage, writable: boolean, { options = {}, gate = createGate() }: Facts = {}) {
  return { storage, options, writable, cache: 'writeback', gate, backing: null } as const;
}

/** The same for an image that refers to nothing, for reading. */
export function closedRequest(storage: Storage) {
  return openRequest(storage, false, { gate: closedGate });
}

/** What a driver is asked to make an image with. */
export function createRequest(storage: Storage, size: number, options: Record<string, string | number | boolean> = {}) {
  return { storage, size, options, backing: null, cache: 'writeback', gate: createGate() } as const;
}
