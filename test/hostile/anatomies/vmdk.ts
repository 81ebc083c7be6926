import { type Mutation, replaceText } from '../../support/mutate.ts';
import { type Anatomy, AnatomyBuilder, type FieldSpec } from '../anatomy.ts';

const SECTOR = 512;
const MAGIC = 'KDMV';
/** "Grain directory at the end": a stream-optimised extent has it in its footer. */
const GD_AT_END = 0xffff_ffff_ffff_ffffn;

const HEADER_FIELDS: readonly FieldSpec[] = [
  ['magic', 0, 4],
  ['version', 4, 4],
  ['flags', 8, 4],
  ['capacity', 12, 8],
  ['grain size', 20, 8],
  ['descriptor offset', 28, 8],
  ['descriptor size', 36, 8],
  ['entries of a grain table', 44, 4],
  ['redundant directory', 48, 8],
  ['grain directory', 56, 8],
  ['overhead', 64, 8],
  ['unclean', 72, 1],
  ['line ends', 73, 4],
  ['compression', 77, 2],
];

/** VMware's virtual disk format 1.1: a hosted sparse extent with its descriptor, or a descriptor alone. */
export function vmdkAnatomy(bytes: Buffer): Anatomy {
  const anatomy = new AnatomyBuilder(bytes, { unit: 64 * 1024, order: 'little' });
  if (bytes.toString('latin1', 0, 4) === MAGIC) addSparse(anatomy);
  else addDescriptor(anatomy);
  return anatomy;
}

function addSparse(anatomy: AnatomyBuilder): void {
  const { bytes } = anatomy;
  anatomy.structure({ name: 'header', offset: 0, length: 79 }, HEADER_FIELDS);
  const atEnd = bytes.readBigUInt64LE(56) === GD_AT_END;
  // The footer stands before the end-of-stream marker.
  const header = atEnd ? bytes.length - 2 * SECTOR : 0;
  if (atEnd) {
    anatomy.structure({ name: 'footer', offset: header, length: 79 }, HEADER_FIELDS);
    for (const offset of [header - SECTOR, header + SECTOR]) addMarker(anatomy, offset);
    addMarker(anatomy, anatomy.number(64, 8) * SECTOR);
  }
  anatomy.regions.push({
    name: 'descriptor',
    offset: anatomy.number(28, 8) * SECTOR,
    length: anatomy.number(36, 8) * SECTOR,
  });
  const grains = Math.ceil(anatomy.number(12, 8) / anatomy.number(20, 8));
  const tableBytes = 4 * bytes.readUInt32LE(44);
  const directory = anatomy.number(header + 56, 8);
  const region = {
    name: 'grain directory',
    offset: directory * SECTOR,
    length: 4 * Math.ceil(grains / (tableBytes / 4)),
  };
  anatomy.table(region, 4, directory);
  for (const index of anatomy.used(region, 4).slice(0, 2)) {
    const table = bytes.readUInt32LE(region.offset + 4 * index);
    if (table > 0)
      anatomy.table({ name: `grain table ${index}`, offset: table * SECTOR, length: tableBytes }, 4, table);
  }
}

/** A marker's value, the size of what follows, its type; in a grain marker, the packed bytes. */
function addMarker(anatomy: AnatomyBuilder, offset: number): void {
  anatomy.structure({ name: `marker at ${offset}`, offset, length: 16 }, [
    ['value', 0, 8],
    ['size', 8, 4],
    ['type', 12, 4],
  ]);
}

const LONG = 'x'.repeat(70_000);

function addDescriptor(anatomy: AnatomyBuilder): void {
  const { bytes } = anatomy;
  anatomy.regions.push({ name: 'descriptor', offset: 0, length: bytes.length });
  const text = bytes.toString('latin1');
  for (const line of text.split('\n').filter((each) => each.trim() !== '')) {
    anatomy.texts.push(replaceText(line, ''), replaceText(line, `${line}\n${line}`), replaceText(line, LONG));
    anatomy.texts.push(replaceText(line, `${line}\0`), replaceText(line, line.replace('=', ' = ')));
  }
  for (const [line] of text.matchAll(/^(RW|RDONLY|NOACCESS) .*$/gm)) anatomy.texts.push(...extentLines(line));
  for (const [found, key] of text.matchAll(/^([\w.]+) *= *.*$/gm)) {
    for (const value of ['', '""', '"', '0', '-1', 'ffffffff', '99999999999999999999', '"nothing"', `"${LONG}"`]) {
      anatomy.texts.push(replaceText(found, `${key}=${value}`));
    }
  }
}

/** An extent's line with each of its words being something else. */
function extentLines(line: string): Mutation[] {
  const words = line.split(' ');
  const others = [
    ['RDONLY', 'NOACCESS', 'rw', 'XX', ''],
    ['0', '1', '-1', '1e9', '0x800', '4294967296', '9007199254740993', '18446744073709551615', 'x'],
    ['SPARSE', 'ZERO', 'VMFS', 'VMFSSPARSE', 'SESPARSE', 'VMFSRDM', 'flat', ''],
    ['""', '"', '"."', '"missing"', 'unquoted', '"a b"', `"${LONG}"`, '"\x01"'],
    ['1', '-1', '4096', '9007199254740993', '18446744073709551615', 'x', '0 0'],
  ];
  return others.flatMap((values, index) =>
    values.map((value) => replaceText(line, words.map((word, at) => (at === index ? value : word)).join(' '))),
  );
}
