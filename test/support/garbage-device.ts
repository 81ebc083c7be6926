import { type MemoryStorage, memoryStorage } from '../../lib/storage/memory.ts';

/** A device of `size` bytes, none of which is zero: what a new image finds where another was. It stays open. */
export function garbageDevice(size: number): MemoryStorage {
  const device = memoryStorage('device', Buffer.alloc(size, 0xd5));
  Object.defineProperty(device, 'fixedSize', { value: true });
  device.close = async () => {};
  return device;
}
