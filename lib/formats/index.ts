import { ImageError } from '../core/errors.ts';
import { bochs } from './bochs.ts';
import { cloop } from './cloop.ts';
import { dmg } from './dmg.ts';
import type { Driver } from './driver.ts';
import { luks } from './luks.ts';
import { parallels } from './parallels.ts';
import { qcow } from './qcow.ts';
import { qcow2 } from './qcow2.ts';
import { qed } from './qed.ts';
import { raw } from './raw.ts';
import { vdi } from './vdi.ts';
import { vhdx } from './vhdx.ts';
import { vmdk } from './vmdk.ts';
import { vpc } from './vpc.ts';

/**
 * The formats, in the order of probing. A list that callers may shorten or extend: `registerDriver`
 * adds a user's own without touching the library.
 */
const registered: Driver[] = [qcow2, qcow, luks, vdi, bochs, cloop, dmg, qed, parallels, vhdx, vmdk, vpc, raw];

/** All known drivers, in the order of probing. */
export function drivers(): readonly Driver[] {
  return registered;
}

/** Adds a format, or replaces the one of that name. */
export function registerDriver(driver: Driver): void {
  const index = registered.findIndex(({ name }) => name === driver.name);
  if (index >= 0) registered[index] = driver;
  else registered.unshift(driver);
}

/** The driver of that name; `invalid` where there is none. */
export function driverNamed(name: string): Driver {
  const driver = registered.find((each) => each.name === name);
  if (driver === undefined) throw new ImageError('invalid', `Unknown driver '${name}'`);
  return driver;
}
