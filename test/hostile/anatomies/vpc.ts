import { type Anatomy, AnatomyBuilder, type FieldSpec } from '../anatomy.ts';

const FOOTER = 512;
const DYNAMIC_HEADER = 1024;
/** "Data offset" of a fixed disk. */
const NONE = 0xffff_ffff_ffff_ffffn;

const FOOTER_FIELDS: readonly FieldSpec[] = [
  ['cookie', 0, 8],
  ['features', 8, 4],
  ['version', 12, 4],
  ['data offset', 16, 8],
  ['creator application', 28, 4],
  ['creator host', 36, 4],
  ['original size', 40, 8],
  ['current size', 48, 8],
  ['cylinders', 56, 2],
  ['heads', 58, 1],
  ['sectors per track', 59, 1],
  ['disk type', 60, 4],
  ['checksum', 64, 4],
];

/** VHD 1.0 (Microsoft, October 2006): big-endian footer, dynamic disk header and block table. */
export function vpcAnatomy(bytes: Buffer): Anatomy {
  const anatomy = new AnatomyBuilder(bytes, { unit: 512 * 1024, order: 'big' });
  const last = bytes.length - FOOTER;
  anatomy.structure({ name: 'last footer', offset: last, length: FOOTER }, FOOTER_FIELDS);
  const isDynamic = bytes.readBigUInt64BE(last + 16) !== NONE;
  const header = isDynamic ? anatomy.number(last + 16, 8) : 0;
  if (isDynamic) addDynamic(anatomy, header);
  anatomy.seal = (spoiled) => {
    if (spoiled.length < FOOTER) return;
    putChecksum(spoiled, spoiled.length - FOOTER, FOOTER, 64);
    if (isDynamic) putChecksum(spoiled, 0, FOOTER, 64);
    if (isDynamic) putChecksum(spoiled, header, DYNAMIC_HEADER, 36);
  };
  return anatomy;
}

function addDynamic(anatomy: AnatomyBuilder, offset: number): void {
  anatomy.structure({ name: 'first footer', offset: 0, length: FOOTER }, FOOTER_FIELDS);
  anatomy.structure({ name: 'dynamic header', offset, length: DYNAMIC_HEADER }, [
    ['cookie', 0, 8],
    ['data offset', 8, 8],
    ['table offset', 16, 8],
    ['version', 24, 4],
    ['table entries', 28, 4],
    ['block size', 32, 4],
    ['checksum', 36, 4],
    ['locator platform', 576, 4],
    ['locator space', 580, 4],
    ['locator length', 584, 4],
    ['locator offset', 592, 8],
  ]);
  const table = anatomy.number(offset + 16, 8);
  anatomy.table({ name: 'block table', offset: table, length: 4 * anatomy.number(offset + 28, 4) }, 4, table / 512);
}

/** The ones' complement of the sum of all bytes but the checksum's own. */
function putChecksum(bytes: Buffer, offset: number, length: number, at: number): void {
  if (offset + length > bytes.length) return;
  bytes.writeUInt32BE(0, offset + at);
  let sum = 0;
  for (const byte of bytes.subarray(offset, offset + length)) sum += byte;
  bytes.writeUInt32BE(~sum >>> 0, offset + at);
}
