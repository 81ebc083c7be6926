import { fieldMutations, type Mutation } from '../../support/mutate.ts';
import { type Anatomy, AnatomyBuilder } from '../anatomy.ts';

const TRAILER = 512;
const CHUNKS_AT = 204;
const CHUNK = 40;

/** UDIF: a trailer of 512 bytes, big-endian, and a property list (or resource fork) of tables of chunks. */
export function dmgAnatomy(bytes: Buffer): Anatomy {
  const anatomy = new AnatomyBuilder(bytes, { unit: 4096, order: 'big' });
  const trailer = bytes.length - TRAILER;
  anatomy.structure({ name: 'trailer', offset: trailer, length: TRAILER }, [
    ['magic', 0, 4],
    ['version', 4, 4],
    ['header size', 8, 4],
    ['running data fork offset', 16, 8],
    ['data fork offset', 24, 8],
    ['data fork length', 32, 8],
    ['resource fork offset', 40, 8],
    ['resource fork length', 48, 8],
    ['plist offset', 216, 8],
    ['plist length', 224, 8],
    ['sectors', 492, 8],
  ]);
  for (const [name, at] of [
    ['resource fork', 40],
    ['plist', 216],
  ] as const) {
    const [offset, length] = [anatomy.number(trailer + at, 8), anatomy.number(trailer + at + 8, 8)];
    if (length > 0) anatomy.regions.push({ name, offset, length });
  }
  anatomy.texts.push(...tableMutations(bytes));
  return anatomy;
}

/** Fields of the tables of chunks, which stand in the property list as Base64. */
function tableMutations(bytes: Buffer): Mutation[] {
  const mutations: Mutation[] = [];
  for (const match of bytes.toString('latin1').matchAll(/<data>([\sA-Za-z0-9+/=]+)<\/data>/g)) {
    const table = Buffer.from(match[1], 'base64');
    if (table.toString('latin1', 0, 4) !== 'mish') continue;
    for (const { name, apply } of fieldMutations(table, fieldsOf(table), [BigInt(bytes.length)])) {
      mutations.push({
        name,
        apply(file) {
          const text = apply(Buffer.from(table)).toString('base64');
          file.write(text.padEnd(match[1].length), match.index + '<data>'.length, 'latin1');
          return file;
        },
      });
    }
  }
  return mutations;
}

function fieldsOf(table: Buffer) {
  const fields = new AnatomyBuilder(table, { unit: CHUNK, order: 'big' });
  fields.structure({ name: 'table', offset: 0, length: CHUNKS_AT }, [
    ['signature', 0, 4],
    ['first sector', 8, 8],
    ['sectors', 16, 8],
    ['data offset', 24, 8],
    ['chunks', 200, 4],
  ]);
  const count = (table.length - CHUNKS_AT) / CHUNK;
  for (const index of new Set([0, Math.floor(count / 2), count - 1])) {
    fields.structure({ name: `chunk ${index}`, offset: CHUNKS_AT + index * CHUNK, length: CHUNK }, [
      ['type', 0, 4],
      ['sector', 8, 8],
      ['sectors', 16, 8],
      ['offset', 24, 8],
      ['length', 32, 8],
    ]);
  }
  return fields.fields;
}
