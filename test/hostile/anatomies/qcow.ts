import { type Anatomy, AnatomyBuilder } from '../anatomy.ts';

/** qcow, version 1: header of 48 bytes, big-endian, and two levels of tables with 8-byte entries. */
export function qcowAnatomy(bytes: Buffer): Anatomy {
  const unit = 2 ** bytes.readUInt8(32);
  const anatomy = new AnatomyBuilder(bytes, { unit, order: 'big' });
  anatomy.structure({ name: 'header', offset: 0, length: 48 }, [
    ['magic', 0, 4],
    ['version', 4, 4],
    ['backing_file_offset', 8, 8],
    ['backing_file_size', 16, 4],
    ['size', 24, 8],
    ['cluster_bits', 32, 1],
    ['l2_bits', 33, 1],
    ['crypt_method', 36, 4],
    ['l1_table_offset', 40, 8],
  ]);
  const l2Entries = 2 ** bytes.readUInt8(33);
  const l1 = {
    name: 'L1',
    offset: anatomy.number(40, 8),
    length: 8 * Math.ceil(anatomy.number(24, 8) / (unit * l2Entries)),
  };
  anatomy.table(l1, 8);
  for (const index of anatomy.used(l1, 8).slice(0, 2)) {
    const offset = anatomy.number(l1.offset + index * 8, 8);
    if (offset !== 0) anatomy.table({ name: `L2 at ${offset}`, offset, length: 8 * l2Entries }, 8);
  }
  return anatomy;
}
