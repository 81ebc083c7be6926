import type { Qcow2Image } from './image.ts';
export async function rebuildRefcounts(_image: Qcow2Image): Promise<void> {}
