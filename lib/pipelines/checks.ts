import { ImageError } from '../core/errors.ts';
import type { Driver } from '../formats/driver.ts';
import { drivers as allDrivers } from '../formats/index.ts';

/** The driver that an output names; `unknown` is the message where there is none. */
export function checkedDriver(name: string, drivers: readonly Driver[] | undefined, unknown?: string): Driver {
  const driver = (drivers ?? allDrivers()).find((each) => each.name === name);
  if (driver === undefined) throw new ImageError('invalid', unknown ?? `Unknown file format '${name}'`);
  return driver;
}

/** The same, and it must be able to make images. */
export function creatingDriver(name: string, drivers: readonly Driver[] | undefined): Driver {
  const driver = checkedDriver(name, drivers);
  if (driver.create === undefined) {
    throw new ImageError('unsupported', `Format driver '${name}' does not support image creation`);
  }
  return driver;
}

/** Throws `invalid` with the message unless 1 <= value <= most. */
export function positiveInteger(value: number, most: number, message: string): void {
  if (!(Number.isSafeInteger(value) && value >= 1 && value <= most)) throw new ImageError('invalid', message);
}

/** Why an output could not be made, with its name in front; wrong options speak for themselves. */
export function creationFailure(error: unknown, filename: string, what: string): unknown {
  if (!(error instanceof ImageError)) return error;
  if (error.kind === 'aborted' || error.message.startsWith('Invalid parameter')) return error;
  const { kind, message, format, offset, code } = error;
  const text = `${filename}: ${what}: ${message}`;
  return new ImageError(kind, text, { file: filename, format, operation: 'create', offset, code, cause: error });
}

/** Whether an output of the format finds out by itself how large it becomes; what can't be made at all is refused later. */
export function canGrow(name: string, drivers: readonly Driver[] | undefined): boolean {
  const driver = (drivers ?? allDrivers()).find((each) => each.name === name);
  return driver?.create === undefined || driver.growable === true;
}
