import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { drivers } from '../../lib/formats/index.ts';
import { type OpenedImage, openImage } from '../../lib/sources/open.ts';
import { setField } from '../support/mutate.ts';
import { qcow2Anatomy } from './anatomies/qcow2.ts';

/** The image with fields set by their names in the anatomy: `header fields`, `L1[0]`, `refcount table[0]`. */
export function withFields(bytes: Buffer, values: Readonly<Record<string, bigint | number>>): Buffer {
  const { fields } = qcow2Anatomy(bytes);
  const spoiled = Buffer.from(bytes);
  for (const [name, value] of Object.entries(values)) {
    const field = fields.find((each) => each.name === name);
    if (field === undefined) throw new Error(`no field ${name} in ${fields.map((each) => each.name).join(', ')}`);
    setField(field, BigInt(value)).apply(spoiled);
  }
  return spoiled;
}

/** The image with another backing file; the name is put at the end of the first cluster. */
export function withBackingFile(bytes: Buffer, name: string): Buffer {
  const { unit: clusterSize } = qcow2Anatomy(bytes);
  const text = Buffer.from(name, 'utf8');
  const offset = clusterSize - text.length;
  const changed = withFields(bytes, { backing_file_offset: offset, backing_file_size: text.length });
  text.copy(changed, offset);
  return changed;
}

/** Byte offsets in the file of used L2 entries of the active tables, first table first. */
export function l2Fields(bytes: Buffer): string[] {
  return qcow2Anatomy(bytes)
    .fields.map(({ name }) => name)
    .filter((name) => name.startsWith('L2 of L1'));
}

/** Writes the file and opens it as qcow2, or as what it looks like with `format` null. */
export async function openBytes(
  directory: string,
  bytes: Buffer,
  { name = 'hostile.qcow2', format = 'qcow2' as string | null } = {},
): Promise<OpenedImage> {
  const path = join(directory, name);
  writeFileSync(path, bytes);
  return openImage(path, { drivers: drivers(), format });
}
