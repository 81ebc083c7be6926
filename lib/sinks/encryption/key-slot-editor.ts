import { randomBytes } from 'node:crypto';
import { tracePoint } from '../../core/trace.ts';
import {
  encodeLuksHeader,
  keyMaterialBytes,
  LUKS_SECTOR,
  type LuksHeader,
  type LuksKeySlot,
} from '../../layouts/luks.ts';
import { type LuksPlace, UnlockAttempt } from '../../sources/encryption/luks.ts';
import type { Storage } from '../../storage/storage.ts';
import { ERASED_SLOT } from './key-slot.ts';

const traceAmend = tracePoint('luks_amend');

/** A key slot and the key material for its place. */
export interface FilledSlot {
  slot: LuksKeySlot;
  material: Buffer;
}

/** The key slots of one container; each method leaves a valid header at any moment. */
export class KeySlotEditor {
  /** As it is on the disk. */
  header: LuksHeader;
  readonly #storage: Storage;
  readonly #at: LuksPlace;

  constructor(storage: Storage, at: LuksPlace, header: LuksHeader) {
    this.#storage = storage;
    this.#at = at;
    this.header = header;
  }

  /** Those of the active slots `among` that the passphrase fits. */
  async matching(passphrase: Uint8Array, among: readonly number[]): Promise<number[]> {
    const attempt = new UnlockAttempt(this.#storage, this.#at, this.header, passphrase);
    const found: number[] = [];
    for (const index of among) {
      if (this.header.slots[index].active && (await attempt.open(index)) !== null) found.push(index);
    }
    return found;
  }

  /** Fills a slot that is not in use. */
  async fill(index: number, { slot, material }: FilledSlot): Promise<void> {
    const { keyOffset } = this.header.slots[index];
    await this.#storage.write(this.#at.offset + keyOffset, material);
    await this.#storage.flush();
    await this.#write(new Map([[index, { ...slot, keyOffset }]]), 'activate');
  }

  /**
   * Fills a slot that is in use. It may be the only one: the same key goes into another slot for so long. (Key material
   * does not depend on its place.) Where no other is free, all of them are in use, and open the container.
   */
  async replace(index: number, filled: FilledSlot): Promise<void> {
    const spare = this.header.slots.findIndex(({ active }) => !active);
    if (spare >= 0) await this.fill(spare, filled);
    await this.erase([index]);
    await this.fill(index, filled);
    if (spare >= 0) await this.erase([spare]);
  }

  async erase(indexes: readonly number[]): Promise<void> {
    const erased = indexes.map((index) => [index, { ...this.header.slots[index], ...ERASED_SLOT }] as const);
    await this.#write(new Map(erased), 'deactivate');
    for (const [, slot] of erased) {
      const noise = randomBytes(keyMaterialBytes(this.header, slot));
      await this.#storage.write(this.#at.offset + slot.keyOffset, noise);
    }
    await this.#storage.flush();
  }

  /**
   * Writes the header with some slots changed. Its second sector begins within slot 6, so that a kill between the two
   * sectors must find the slot out of use: its state is in the first.
   */
  async #write(changed: ReadonlyMap<number, LuksKeySlot>, change: 'activate' | 'deactivate'): Promise<void> {
    const slots = this.header.slots.map((slot, index) => changed.get(index) ?? slot);
    const [old, bytes] = [this.header, { ...this.header, slots }].map(encodeLuksHeader);
    if (traceAmend.enabled) traceAmend.emit({ file: this.#storage.name, change, slots: [...changed.keys()].join() });
    for (const sector of change === 'activate' ? [1, 0] : [0, 1]) {
      const part = bytes.subarray(sector * LUKS_SECTOR, (sector + 1) * LUKS_SECTOR);
      if (part.equals(old.subarray(sector * LUKS_SECTOR, (sector + 1) * LUKS_SECTOR))) continue;
      await this.#storage.write(this.#at.offset + sector * LUKS_SECTOR, part);
      await this.#storage.flush();
    }
    this.header = { ...this.header, slots };
  }
}
