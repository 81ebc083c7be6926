import type { Anatomy } from '../anatomy.ts';
import { bochsAnatomy } from './bochs.ts';
import { cloopAnatomy } from './cloop.ts';
import { dmgAnatomy } from './dmg.ts';
import { luksAnatomy } from './luks.ts';
import { parallelsAnatomy } from './parallels.ts';
import { qcowAnatomy } from './qcow.ts';
import { qcow2Anatomy } from './qcow2.ts';
import { qedAnatomy } from './qed.ts';
import { vdiAnatomy } from './vdi.ts';
import { vhdxAnatomy } from './vhdx.ts';
import { vmdkAnatomy } from './vmdk.ts';
import { vpcAnatomy } from './vpc.ts';

const ANATOMIES: Readonly<Record<string, (bytes: Buffer) => Anatomy>> = {
  bochs: bochsAnatomy,
  cloop: cloopAnatomy,
  dmg: dmgAnatomy,
  luks: luksAnatomy,
  parallels: parallelsAnatomy,
  qcow: qcowAnatomy,
  qcow2: qcow2Anatomy,
  qed: qedAnatomy,
  vdi: vdiAnatomy,
  vhdx: vhdxAnatomy,
  vmdk: vmdkAnatomy,
  vpc: vpcAnatomy,
};

/** Formats whose structures are known here. */
export const ANATOMY_NAMES: readonly string[] = Object.keys(ANATOMIES);

/** Where the structures of a sound image of the format lie. */
export function anatomyOf(format: string, bytes: Buffer): Anatomy {
  const make = ANATOMIES[format];
  if (make === undefined) throw new Error(`nobody knows the anatomy of ${format}`);
  return make(bytes);
}
