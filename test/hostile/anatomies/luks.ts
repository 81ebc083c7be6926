import { type Field, setField } from '../../support/mutate.ts';
import { type Anatomy, AnatomyBuilder } from '../anatomy.ts';

/** One that is used, the next, and the last: the others are as these. */
const SLOTS = [0, 1, 7];
/** Numbers of iterations that are refused at once, or done at once: what lies between is honest, and takes its time. */
const ITERATIONS = [0n, 1n, 2n, 1001n, 2n ** 27n + 1n, 2n ** 31n - 1n, 2n ** 31n, 2n ** 32n - 1n];

/** LUKS1 (LUKS On-Disk Format Specification 1.2.3): header with eight key slots, big-endian; places are in sectors. */
export function luksAnatomy(bytes: Buffer): Anatomy {
  const anatomy = new AnatomyBuilder(bytes, { unit: 512, order: 'big' });
  // Each deriving of a key and merging of its stripes takes some 30 ms.
  anatomy.cases = 160;
  anatomy.cuts = [...anatomy.cuts, 591, 592, 4095, 4096, 4097];
  anatomy.structure({ name: 'header', offset: 0, length: 164 }, [
    ['magic', 0, 4],
    ['version', 6, 2],
    ['cipher name', 8, 4],
    ['cipher mode', 40, 8],
    ['hash', 72, 4],
    ['payload offset', 104, 4],
    ['key bytes', 108, 4],
    ['digest', 112, 4],
    ['digest salt', 132, 8],
  ]);
  anatomy.structure({ name: 'uuid', offset: 168, length: 40 }, [['start', 0, 8]]);
  const iterations: Field[] = [{ name: 'header digest iterations', offset: 164, width: 4 }];
  for (const slot of SLOTS) {
    const name = `key slot ${slot}`;
    const offset = 208 + slot * 48;
    anatomy.structure({ name: `${name} state`, offset, length: 4 }, [['number', 0, 4]]);
    anatomy.structure({ name, offset: offset + 8, length: 40 }, [
      ['salt', 0, 8],
      ['key material offset', 32, 4],
      ['stripes', 36, 4],
    ]);
    iterations.push({ name: `${name} iterations`, offset: offset + 4, width: 4 });
  }
  anatomy.texts.push(...iterations.flatMap((field) => ITERATIONS.map((value) => setField(field, value))));
  const material = anatomy.number(208 + 40, 4) * 512;
  anatomy.regions.push({ name: 'key material', offset: material, length: 4000 * anatomy.number(108, 4) });
  anatomy.places.push(0x0000deadn, 0x00ac71f3n, BigInt(anatomy.number(104, 4)));
  return anatomy;
}
