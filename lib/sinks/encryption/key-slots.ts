import { ImageError } from '../../core/errors.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import { type Secrets, secretNamed } from '../../crypto/secrets.ts';
import { LUKS_SLOTS } from '../../layouts/luks.ts';
import { type LuksPlace, readLuksHeader, unlockLuks } from '../../sources/encryption/luks.ts';
import { parseLuksCipher } from '../../sources/encryption/luks-cipher.ts';
import type { Storage } from '../../storage/storage.ts';
import { countIterations, fillSlot } from './key-slot.ts';
import { KeySlotEditor } from './key-slot-editor.ts';
import type { luksAmendOptions } from './luks-options.ts';
import { DEFAULT_ITER_TIME } from './luks-settings.ts';

export interface LuksAmendRequest {
  storage: Storage;
  at: LuksPlace;
  /** Of `luksAmendOptions`, under these names with `prefix` before them. */
  values: AnyOptionValues;
  /** `encrypt.` in qcow2; none by default. */
  prefix?: string;
  secrets: Secrets | undefined;
  /** The one that the image was opened with. */
  passphrase: Uint8Array;
  /** Overwrite key slots in use, and erase the last one. */
  force: boolean;
}

/**
 * Puts a passphrase into a key slot, or erases key slots. Errors in QEMU's words, before anything is changed. Whenever it is
 * interrupted, the header is valid and (unless the last slot is to be erased) some slot opens the container: key material is
 * on the disk before the header speaks of it, and is destroyed after the header has let go of it.
 */
export async function amendLuks(request: LuksAmendRequest): Promise<void> {
  const { storage, at } = request;
  const change = parseChange(request);
  const editor = new KeySlotEditor(storage, at, await readLuksHeader(storage, at.offset, at.length));
  if (change.state === 'active') await activate(editor, change, request);
  else await deactivate(editor, change, request);
}

interface Change {
  state: 'active' | 'inactive';
  keyslot: number | null;
  newSecret: string | null;
  oldSecret: string | null;
  iterTime: number | null;
}

function parseChange({ values, prefix = '' }: LuksAmendRequest): Change {
  const given = <T>(key: keyof typeof luksAmendOptions, as: (value: unknown) => T): T | null => {
    const value = values[prefix + key];
    return value === undefined ? null : as(value);
  };
  const state = given('state', String);
  if (state === null) throw invalid("Parameter 'state' is missing");
  if (state !== 'active' && state !== 'inactive') throw invalid(`Parameter 'state' does not accept value '${state}'`);
  return {
    state,
    keyslot: given('keyslot', Number),
    newSecret: given('new-secret', String),
    oldSecret: given('old-secret', String),
    iterTime: given('iter-time', Number),
  };
}

async function activate(editor: KeySlotEditor, change: Change, request: LuksAmendRequest): Promise<void> {
  const { newSecret, oldSecret, iterTime } = change;
  if (newSecret === null) throw invalid("'new-secret' is required to activate a keyslot");
  if (oldSecret !== null) throw invalid("'old-secret' must not be given when activating keyslots");
  const index = slotToFill(editor, change.keyslot, request.force);
  const passphrase = secretNamed(request.secrets, newSecret);
  const { header } = editor;
  const { storage, at } = request;
  const { masterKey, cipher } = await unlockLuks(storage, at, header, request.passphrase);
  await cipher.close();
  const iterations = countIterations(parseLuksCipher(header), iterTime ?? DEFAULT_ITER_TIME);
  const filled = await fillSlot(header, { index, masterKey, passphrase, iterations });
  if (header.slots[index].active) await editor.replace(index, filled);
  else await editor.fill(index, filled);
}

function slotToFill({ header: { slots } }: KeySlotEditor, keyslot: number | null, force: boolean): number {
  if (keyslot === null) {
    const free = slots.findIndex(({ active }) => !active);
    if (free < 0) throw invalid("Can't add a keyslot - all keyslots are in use");
    return free;
  }
  checkIndex(keyslot);
  if (slots[keyslot].active && !force) {
    throw refused(`Refusing to overwrite active keyslot ${keyslot} - please erase it first`);
  }
  return keyslot;
}

async function deactivate(editor: KeySlotEditor, change: Change, request: LuksAmendRequest): Promise<void> {
  if (change.newSecret !== null) throw invalid("'new-secret' must not be given when erasing keyslots");
  if (change.iterTime !== null) throw invalid("'iter-time' must not be given when erasing keyslots");
  const passphrase = change.oldSecret === null ? null : secretNamed(request.secrets, change.oldSecret);
  await editor.erase(await slotsToErase(editor, change.keyslot, passphrase, request.force));
}

async function slotsToErase(
  editor: KeySlotEditor,
  keyslot: number | null,
  passphrase: Buffer | null,
  force: boolean,
): Promise<number[]> {
  const { slots } = editor.header;
  const active = slots.filter((slot) => slot.active).length;
  if (keyslot !== null) {
    checkIndex(keyslot);
    if (passphrase !== null && (await editor.matching(passphrase, [keyslot])).length === 0) {
      throw invalid(`Given keyslot ${keyslot} doesn't contain the given old password for erase operation`);
    }
    // QEMU's words, the space at their end included.
    if (!slots[keyslot].active) throw invalid(`Given keyslot ${keyslot} is already erased (inactive) `);
    if (active === 1 && !force) {
      throw refused(`Attempt to erase the only active keyslot ${keyslot} which ${IRREVERSIBLY}`);
    }
    return [keyslot];
  }
  if (passphrase === null) {
    throw invalid(
      'To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given',
    );
  }
  const matching = await editor.matching(passphrase, [...slots.keys()]);
  if (matching.length === 0) throw invalid('No keyslots match given (old) password for erase operation');
  if (matching.length === active && !force) {
    throw refused(`All the active keyslots match the (old) password that was given and erasing them ${IRREVERSIBLY}`);
  }
  return matching;
}

const IRREVERSIBLY = 'will erase all the data in the image irreversibly - refusing operation';

function checkIndex(keyslot: number): void {
  if (keyslot >= 0 && keyslot < LUKS_SLOTS) return;
  throw invalid(`Invalid keyslot ${keyslot} specified, must be between 0 and ${LUKS_SLOTS - 1}`);
}

function invalid(message: string): ImageError {
  return new ImageError('invalid', message, { operation: 'amend' });
}

function refused(message: string): ImageError {
  return new ImageError('refused', message, { operation: 'amend' });
}
