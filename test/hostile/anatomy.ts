import { type Field, type Mutation, type Region, readField } from '../support/mutate.ts';

/**
 * Where the structures of a sound image lie, found without the library's own decoder: what the mutations aim at.
 */
export interface Anatomy {
  /** Cluster, block or sector: files are cut off at multiples of it. */
  unit: number;
  fields: Field[];
  regions: Region[];
  /** Offsets of structures, as the format's entries write them, for fields that shall point where they must not. */
  places: bigint[];
  /** Lengths at which a header is cut off. */
  cuts: readonly number[];
  /** So many cases at the most: opening takes its time. Absent: as many as the file's size allows. */
  cases?: number;
  /** Ways to spoil the file that are no numbers: lines of a descriptor. */
  texts?: Mutation[];
  /** Makes checksums right again, so that what they hide is looked at. */
  seal?(bytes: Buffer): void;
}

/** A field's name, its offset in the structure, and its width. */
export type FieldSpec = readonly [name: string, offset: number, width: Field['width']];

/** Entries of each table that get mutations of their own; random ones reach the rest. */
const ENTRIES = 4;

/** Collects an anatomy for a format whose numbers are all of one byte order. */
export class AnatomyBuilder implements Anatomy {
  readonly bytes: Buffer;
  readonly unit: number;
  readonly little: boolean;
  readonly fields: Field[] = [];
  readonly regions: Region[] = [];
  readonly places: bigint[];
  readonly texts: Mutation[] = [];
  cuts: readonly number[] = [0, 1, 3, 4, 7, 8, 63, 64, 127, 511, 512, 513, 1023, 1024];
  seal?: (bytes: Buffer) => void;
  cases?: number;

  constructor(bytes: Buffer, { unit, order }: { unit: number; order: 'little' | 'big' }) {
    this.bytes = bytes;
    this.unit = unit;
    this.little = order === 'little';
    this.places = [0n, BigInt(unit), BigInt(bytes.length), BigInt(bytes.length - (bytes.length % unit))];
  }

  number(offset: number, width: Field['width']): number {
    return Number(readField(this.bytes, { name: '', offset, width, little: this.little }));
  }

  /** A structure of named fields. */
  structure(region: Region, specs: readonly FieldSpec[]): this {
    this.regions.push(region);
    for (const [name, offset, width] of specs) {
      this.fields.push({
        name: `${region.name} ${name}`,
        offset: region.offset + offset,
        width,
        little: this.little,
      });
    }
    return this;
  }

  /** A table of entries: its first used ones get mutations of their own, and the first that is not used. */
  table(region: Region, width: Field['width'], place: number = region.offset): this {
    this.regions.push(region);
    this.places.push(BigInt(place));
    for (const index of this.used(region, width)) {
      const offset = region.offset + index * width;
      this.fields.push({ name: `${region.name}[${index}]`, offset, width, little: this.little });
    }
    return this;
  }

  /** Indexes of the first entries that are used, and of the first one that isn't. */
  used({ offset, length }: Region, width: Field['width']): number[] {
    const used: number[] = [];
    let unused = -1;
    const free = [0, 2 ** (width * 8) - 1];
    for (let index = 0; index < length / width && used.length < ENTRIES; index += 1) {
      if (!free.includes(this.number(offset + index * width, width))) used.push(index);
      else if (unused < 0) unused = index;
    }
    return unused < 0 ? used : [...used, unused];
  }
}
