import type { BatchReadable } from './core/streams.ts';
import type { Secrets } from './crypto/secrets.ts';
import { createImage } from './formats/create.ts';
import type { Driver } from './formats/driver.ts';
import { drivers as allDrivers } from './formats/index.ts';
import type { Target } from './sinks/target.ts';
import { type ExtentStreamOptions, extentStream, type Mapped } from './sources/extents.ts';
import { parseImageOpts } from './sources/filename.ts';
import { type OpenedImage, openImage } from './sources/open.ts';
import type { SnapshotSelector, Source } from './sources/source.ts';
import type { CacheMode, Storage } from './storage/storage.ts';

export interface OpenOptions {
  /** Driver name; absent: probed. */
  format?: string | null;
  /** The first argument is an option string: `driver=qcow2,file.filename=x`. */
  imageOpts?: boolean;
  /** False: only this layer, whatever its backing file. Default true. */
  backing?: boolean;
  /** The disk as this internal snapshot has it. */
  snapshot?: SnapshotSelector;
  /** Whether files that the image refers to may be opened: allowed by default. */
  implicit?: 'allow' | 'refuse' | ((reference: string, from: string) => boolean | Promise<boolean>);
  /** What `key-secret` options of the images name. */
  secrets?: Secrets;
  /** Open an image that another process writes to. */
  forceShare?: boolean;
  /** Default `writeback`. */
  cache?: CacheMode;
  /** The formats to know; all registered ones by default. */
  drivers?: readonly Driver[];
  /** Where the image lies, if that is open already (`memoryStorage`); it is closed with the image. */
  storage?: Storage;
}

/** An open image: the guest disk, all its layers joined. */
export interface Image extends Mapped {
  /** As it was named. */
  readonly name: string;
  /** Driver name. */
  readonly format: string;
  /** Guest size in bytes. */
  readonly size: number;
  /** The top layer alone: its format, its description, its own map. */
  readonly layer: Source;
  /** The image below, or null. */
  readonly backing: OpenedImage | null;
  /** Fills `buffer` with guest bytes from `offset`, inside the disk. */
  read(offset: number, buffer: Buffer): Promise<void>;
  close(): Promise<void>;
}

/** Opens an image with its backing chain, for reading. Rejects with an ImageError. */
export async function open(filename: string, options: OpenOptions = {}): Promise<Image> {
  const { imageOpts = false, drivers = allDrivers(), ...rest } = options;
  const opened = await openImage(imageOpts ? parseImageOpts(filename) : filename, {
    drivers,
    containers: true,
    ...rest,
  });
  const { chain, source, backing } = opened;
  return {
    name: filename,
    format: source.format,
    size: chain.size,
    layer: source,
    backing,
    map: (offset, length) => chain.map(offset, length),
    read: (offset, buffer) => chain.read(offset, buffer),
    close: () => opened.close(),
  };
}

export interface CreateOptions {
  /** Driver name. */
  format: string;
  /** Guest bytes; absent: the backing file's. */
  size?: number;
  /** What `-o` takes: `{ cluster_size: '2M' }`. */
  options?: Readonly<Record<string, string>>;
  backing?: { filename: string; format?: string | null };
  /** Default `writeback`: flushed to the disk at the end. */
  cache?: CacheMode;
  drivers?: readonly Driver[];
  /** Where to make it, if that is open already; the filename then only names it. */
  storage?: Storage;
}

/**
 * Makes a new image, and returns it open for writing: see `targetWritable`. `close` completes it, and
 * only then is it recognisable as an image. Rejects with an ImageError.
 */
export function create(filename: string, options: CreateOptions): Promise<Target> {
  return createImage({ ...options, filename });
}

/** The extents of an image, or of a part of it, as a stream: where a pipeline begins. Put `load()` after it. */
export function extents(image: Mapped, options: ExtentStreamOptions = {}): BatchReadable {
  return extentStream(image, options);
}
