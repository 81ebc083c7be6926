import { closeDescriptor, readAt, syncDescriptor, writeAt, writevAt } from './descriptor.ts';

/** Bytes at positions of an open file: through the page cache, or around it (`direct.ts`). Errors are the system's. */
export interface PositionedIo {
  /** Resolves to the bytes read: fewer than asked only at the end of the file. */
  read(buffer: Buffer, position: number): Promise<number>;
  write(buffer: Buffer, position: number): Promise<void>;
  writev(buffers: readonly Buffer[], position: number): Promise<void>;
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** Through the page cache. */
export function bufferedIo(fd: number): PositionedIo {
  return {
    read: (buffer, position) => readAt(fd, buffer, position),
    write: (buffer, position) => writeAt(fd, buffer, position),
    writev: (buffers, position) => writevAt(fd, buffers, position),
    sync: () => syncDescriptor(fd),
    close: () => closeDescriptor(fd),
  };
}
