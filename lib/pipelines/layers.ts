import { realpath } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { hasProtocol, type NodeSpec } from '../sources/filename.ts';
import type { OpenedImage } from '../sources/open.ts';

/** An image and those below it, the top first. */
export function layersOf(top: OpenedImage): OpenedImage[] {
  const layers: OpenedImage[] = [];
  for (let each: OpenedImage | null = top; each !== null; each = each.backing) layers.push(each);
  return layers;
}

/** What opens these layers again as one chain that ends with the last of them, all of formats that are known by now. */
export function chainNode(layers: readonly OpenedImage[]): NodeSpec {
  let below: NodeSpec | null = null;
  for (const { node, driver } of layers.toReversed()) {
    below = { ...node, driver: node.driver ?? driver.name, backing: below };
  }
  return below as NodeSpec;
}

/**
 * The index of the layer below the top that goes by this name, or -1. A name is what a header has, or a path, relative to the
 * image that lies upon the one that is meant.
 */
export async function findBelow(layers: readonly OpenedImage[], name: string): Promise<number> {
  for (let index = 1; index < layers.length; index += 1) {
    if (await goesBy(layers[index - 1], layers[index], name)) return index;
  }
  return -1;
}

async function goesBy(above: OpenedImage, { filename, storage }: OpenedImage, name: string): Promise<boolean> {
  if (name === '') return false;
  if (name === filename || name === above.source.backing?.filename) return true;
  if (hasProtocol(name) || storage.path === null || above.storage.path === null) return false;
  const [wanted, there] = await Promise.all([real(resolve(dirname(above.storage.path), name)), real(storage.path)]);
  return wanted !== null && wanted === there;
}

function real(path: string): Promise<string | null> {
  return realpath(path).catch(() => null);
}
