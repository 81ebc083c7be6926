import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeBochs } from '../support/bochs-images.ts';
import { makeCloop } from '../support/cloop-images.ts';
import { makeDmg } from '../support/dmg-images.ts';
import { sparseDisk } from '../support/sparse-disk.ts';
import type { Fixture } from './facts.ts';

const KIB = 1024;

/** Writes images that a generator made into the directory; `name` also gives the extension. */
async function written(directory: string, name: string, images: readonly [Buffer, Buffer][]): Promise<Fixture[]> {
  const fixtures: Fixture[] = [];
  for (const [index, [image, contents]] of images.entries()) {
    const path = join(directory, `${index}.${name}`);
    await writeFile(path, image);
    fixtures.push({ path, contents });
  }
  return fixtures;
}

export function bochsFixtures(directory: string): Promise<Fixture[]> {
  const disk = sparseDisk(3001 * 512, 11);
  return written(directory, 'bochs', [
    [makeBochs(disk), disk],
    [makeBochs(disk, { version: 1, extentSize: 128 * KIB, seed: 1 }), disk],
  ]);
}

export function cloopFixtures(directory: string): Promise<Fixture[]> {
  const disk = sparseDisk(48 * 64 * KIB, 12);
  return written(directory, 'cloop', [
    [makeCloop(disk), disk],
    [makeCloop(disk, 512), disk],
  ]);
}

export function dmgFixtures(directory: string): Promise<Fixture[]> {
  const disk = sparseDisk(2001 * 512, 13);
  return written(directory, 'dmg', [
    [makeDmg(disk, { chunks: ['zlib', 'raw', 'adc', 'lzfse'], chunkSectors: 100 }), disk],
    [makeDmg(disk, { partitions: 3, tables: 'resources', lead: 33, padded: true }), disk],
  ]);
}
