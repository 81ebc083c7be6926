import { type Anatomy, AnatomyBuilder } from '../anatomy.ts';

/** QED (QEMU's docs/interop/qed_spec): header of 64 bytes, little-endian, and two levels of tables. */
export function qedAnatomy(bytes: Buffer): Anatomy {
  const unit = bytes.readUInt32LE(4);
  const anatomy = new AnatomyBuilder(bytes, { unit, order: 'little' });
  anatomy.structure({ name: 'header', offset: 0, length: 64 }, [
    ['magic', 0, 4],
    ['cluster_size', 4, 4],
    ['table_size', 8, 4],
    ['header_size', 12, 4],
    ['features', 16, 8],
    ['compat_features', 24, 8],
    ['autoclear_features', 32, 8],
    ['l1_table_offset', 40, 8],
    ['image_size', 48, 8],
    ['backing_filename_offset', 56, 4],
    ['backing_filename_size', 60, 4],
  ]);
  const length = bytes.readUInt32LE(8) * unit;
  const l1 = { name: 'L1', offset: anatomy.number(40, 8), length };
  anatomy.table(l1, 8);
  for (const index of anatomy.used(l1, 8).slice(0, 2)) {
    const offset = anatomy.number(l1.offset + index * 8, 8);
    if (offset !== 0) anatomy.table({ name: `L2 at ${offset}`, offset, length }, 8);
  }
  return anatomy;
}
