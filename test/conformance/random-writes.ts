import fc from 'fast-check';
import type { GuestWrite, Target } from '../../lib/sinks/target.ts';
import { type DiskModel, pattern, Random } from '../support/model.ts';
import { checkMap, checkRead, checkReads } from './checks.ts';
import type { Subject } from './subject.ts';

/** One step of a random history. Numbers are scaled to the disk when it is run. */
export interface Step {
  kind: 'write' | 'many' | 'zero' | 'unmap' | 'discard' | 'compressed' | 'flush' | 'read' | 'reopen';
  /** Place, as a part of the disk from 0 to 1. */
  at: number;
  /** Bytes before alignment, in allocation units. */
  units: number;
  /** Whole allocation units only. */
  aligned: boolean;
  seed: number;
}

export const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.record({
    kind: fc.constantFrom(
      ...([
        'write',
        'write',
        'write',
        'many',
        'zero',
        'unmap',
        'discard',
        'compressed',
        'flush',
        'read',
        'reopen',
      ] as const),
    ),
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    units: fc.oneof(fc.double({ min: 0, max: 0.3, noNaN: true }), fc.double({ min: 0, max: 5, noNaN: true })),
    aligned: fc.boolean(),
    seed: fc.nat(250),
  }),
  { minLength: 5, maxLength: 40 },
);

/** Lives through a history on an image and on a model at once; throws at the first difference. */
export class History {
  readonly #subject: Subject;
  readonly #model: DiskModel;
  #target: Target;

  private constructor(subject: Subject, target: Target, model: DiskModel) {
    this.#subject = subject;
    this.#target = target;
    this.#model = model;
  }

  static async live(subject: Subject, target: Target, model: DiskModel, history: readonly Step[]): Promise<void> {
    const life = new History(subject, target, model);
    try {
      for (const step of history) await life.#step(step);
    } catch (error) {
      await life.#target.abort().catch(() => {});
      throw error;
    }
    await life.#target.close();
    await life.#checkClosed();
  }

  async #step(step: Step): Promise<void> {
    const { offset, length } = this.#range(step);
    if (step.kind === 'reopen') return this.#reopen();
    if (step.kind === 'flush') return this.#target.flush();
    if (length === 0) return;
    switch (step.kind) {
      case 'write':
        return this.#write(offset, pattern(length, step.seed));
      case 'many':
        await this.#writeMany(offset, pattern(length, step.seed));
        break;
      case 'compressed':
        return this.#compressed(offset, step.seed);
      case 'discard':
        return this.#discard(offset, length);
      case 'zero':
      case 'unmap':
        await this.#target.zero(offset, length, { unmap: step.kind === 'unmap' });
        this.#model.zero(offset, length);
    }
    await this.#look(offset, length);
  }

  /** target.source sees what was written; with a backing file it is one layer of two, and can't be compared. */
  async #look(offset: number, length: number): Promise<void> {
    const { source } = this.#target;
    if (source !== null && source.backing === null) await checkRead(source, this.#model, offset, length);
  }

  #range({ at, units, aligned }: Step): { offset: number; length: number } {
    const { size } = this.#model;
    const unit = Math.max(512, this.#target.granularity);
    const round = (value: number) => (aligned ? Math.floor(value / unit) * unit : Math.floor(value));
    const offset = round(at * size);
    return { offset, length: Math.min(size - offset, aligned ? Math.ceil(units) * unit : Math.floor(units * unit)) };
  }

  async #write(offset: number, buffer: Buffer): Promise<void> {
    await this.#target.write(offset, buffer);
    this.#model.write(offset, buffer);
    await this.#look(offset, buffer.length);
  }

  /** Every other piece of the range, at once where the target can do that. */
  async #writeMany(offset: number, buffer: Buffer): Promise<void> {
    const random = new Random(buffer.length);
    const writes: GuestWrite[] = [];
    for (let at = 0; at < buffer.length; ) {
      const length = Math.min(buffer.length - at, 1 + random.below(this.#target.granularity * 2 + 4096));
      writes.push({ offset: offset + at, buffer: buffer.subarray(at, at + length) });
      at += length + random.below(2) * random.below(this.#target.granularity * 2 + 4096);
    }
    if (this.#target.writeMany !== undefined) await this.#target.writeMany(writes);
    else for (const each of writes) await this.#target.write(each.offset, each.buffer);
    for (const each of writes) this.#model.write(each.offset, each.buffer);
  }

  async #discard(offset: number, length: number): Promise<void> {
    if (this.#target.discard === undefined) return;
    await this.#target.discard(offset, length);
    await this.#reopen(false);
    const image = await this.#subject.open();
    try {
      const found = Buffer.alloc(length);
      await image.chain.read(offset, found);
      const at = this.#model.settleDiscard(offset, found);
      if (at >= 0) throw new Error(`after a discard, byte ${at} is ${found[at - offset]}`);
    } finally {
      await image.close();
    }
    this.#target = await this.#subject.openTarget();
  }

  async #compressed(offset: number, seed: number): Promise<void> {
    const { compressor } = this.#target;
    if (compressor === undefined || this.#target.writeCompressed === undefined) return;
    const start = Math.floor(offset / compressor.unit) * compressor.unit;
    const plain = pattern(Math.min(compressor.unit, this.#model.size - start), seed);
    const packed = await compressor.compress(plain);
    if (packed === null) return;
    await this.#target.writeCompressed(start, plain.length, packed);
    this.#model.write(start, plain);
    await this.#look(start, plain.length);
  }

  async #reopen(again = true): Promise<void> {
    await this.#target.close();
    if (again) this.#target = await this.#subject.openTarget();
  }

  async #checkClosed(): Promise<void> {
    const image = await this.#subject.open();
    const random = new Random(this.#model.size);
    try {
      await checkReads(image.chain, this.#model, random);
      if (image.backing === null) await checkMap(image.source, this.#model, random);
    } finally {
      await image.close();
    }
  }
}
