/** Host offset of a refcount block, reserved bits left out; 0: none. Inexact only beyond the end of any file. */
export function refcountBlockOffset(table: Buffer, index: number): number {
  const low = table.readUInt32BE(index * 8 + 4);
  return table.readUInt32BE(index * 8) * 0x1_0000_0000 + (low - (low & 0x1ff));
}
