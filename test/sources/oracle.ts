import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { drivers } from '../../lib/formats/index.ts';
import { walkExtents } from '../../lib/sources/extents.ts';
import { parseImageOpts } from '../../lib/sources/filename.ts';
import { type OpenedImage, type OpenImageOptions, openImage } from '../../lib/sources/open.ts';
import type { Source } from '../../lib/sources/source.ts';
import { tool } from '../support/tools.ts';

export const qemuImg = tool('qemu-img');
export const qemuIo = tool('qemu-io');

/** A line of `qemu-img map --output=json`. */
export interface MapLine {
  start: number;
  length: number;
  depth: number;
  present: boolean;
  zero: boolean;
  data: boolean;
  offset?: number;
}

/** Opens with the drivers of the library. */
export function open(filename: string, options: Partial<OpenImageOptions> & { imageOpts?: boolean } = {}) {
  const { imageOpts = false, ...rest } = options;
  return openImage(imageOpts ? parseImageOpts(filename) : filename, { drivers: drivers(), ...rest });
}

/** Opens, hands over, closes. */
export async function withImage<T>(
  filename: string,
  use: (image: OpenedImage) => Promise<T>,
  options: Partial<OpenImageOptions> = {},
): Promise<T> {
  const image = await open(filename, options);
  try {
    return await use(image);
  } finally {
    await image.close();
  }
}

/** The whole disk, read in pieces of a size that suits no cluster. */
export async function readAll(source: Source, piece = 1_234_567): Promise<Buffer> {
  const disk = Buffer.alloc(source.size, 0xaa);
  for (let at = 0; at < disk.length; at += piece) {
    await source.read(at, disk.subarray(at, Math.min(disk.length, at + piece)));
  }
  return disk;
}

/** The whole disk, by its map and by readMany, as the copying pipelines read it. */
export async function loadAll(source: Source): Promise<Buffer> {
  const disk = Buffer.alloc(source.size);
  for await (const batch of walkExtents(source)) {
    const data = batch.extents.filter(({ kind }) => kind === 'data');
    const buffers = data.map(({ offset, length }) => disk.subarray(offset, offset + length));
    if (source.readMany !== undefined) await source.readMany(data, buffers);
    else await Promise.all(data.map(({ offset }, index) => source.read(offset, buffers[index])));
  }
  return disk;
}

/** The disk as qemu-img reads it. */
export function qemuRaw(directory: string, args: readonly string[]): Buffer {
  const target = join(directory, 'oracle.raw');
  qemuImg.expect(['convert', '-O', 'raw', ...args, target]);
  const disk = readFileSync(target);
  rmSync(target);
  return disk;
}

export function qemuMap(args: readonly string[]): MapLine[] {
  return JSON.parse(qemuImg.expect(['map', '--output=json', ...args]));
}

/** The map of a source in the terms of `qemu-img map`, merged as it merges. */
export async function mapLines(source: Source): Promise<MapLine[]> {
  const lines: MapLine[] = [];
  for await (const { extents } of walkExtents(source)) {
    for (const { offset: start, length, depth, kind, hollow, hostOffset } of extents) {
      const line: MapLine = {
        start,
        length,
        depth,
        present: true,
        zero: kind !== 'data',
        data: kind === 'data' || hollow,
      };
      line.present = kind !== 'unallocated';
      if (hostOffset >= 0) line.offset = hostOffset;
      const last = lines[lines.length - 1];
      if (last !== undefined && continues(last, line)) last.length += length;
      else lines.push(line);
    }
  }
  return lines;
}

function continues(last: MapLine, next: MapLine): boolean {
  return (
    last.depth === next.depth &&
    last.present === next.present &&
    last.data === next.data &&
    last.zero === next.zero &&
    (last.offset === undefined ? next.offset === undefined : last.offset + last.length === next.offset)
  );
}
