import test from 'ava';
import fc from 'fast-check';
import { type Extent, type ExtentKind, extent, pushExtent } from '../../lib/core/extent.ts';
import { joinLayers } from '../../lib/sources/chain.ts';
import { walkExtents } from '../../lib/sources/extents.ts';
import type { Source } from '../../lib/sources/source.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';

const UNIT = 16;

/** A layer of units, one character each: a letter is data of that byte, `0` zero, `.` unallocated. */
function layer(units: string, mapUnits = Number.POSITIVE_INFINITY): Source & { asked: number } {
  const storage = memoryStorage('layer');
  const source: Source & { asked: number } = {
    name: units,
    format: 'test',
    size: units.length * UNIT,
    storage,
    backing: null,
    granularity: UNIT,
    asked: 0,
    async map(offset, length) {
      source.asked += 1;
      const list: Extent[] = [];
      for (let at = offset; at < offset + length && (at - offset) / UNIT < mapUnits; ) {
        const next = Math.min(offset + length, (Math.floor(at / UNIT) + 1) * UNIT);
        const each = extent(at, next - at, kindOf(units[Math.floor(at / UNIT)]));
        each.layer = source;
        pushExtent(list, each);
        at = next;
      }
      return list;
    },
    async read(offset, buffer) {
      for (let index = 0; index < buffer.length; index += 1) {
        const unit = units[Math.floor((offset + index) / UNIT)];
        buffer[index] = kindOf(unit) === 'data' ? unit.charCodeAt(0) : 0;
      }
    },
    describe: async () => ({}),
    close: async () => {},
  };
  return source;
}

function kindOf(unit: string): ExtentKind {
  if (unit === '.') return 'unallocated';
  return unit === '0' ? 'zero' : 'data';
}

/** What the chain must say of each unit: the character and the depth it comes from. */
function model(layers: readonly string[]): string[] {
  return Array.from(layers[0], (_, index) => {
    let depth = 0;
    while (layers[depth][index] === '.' && depth + 1 < layers.length && index < layers[depth + 1].length) depth += 1;
    return layers[depth][index] + depth;
  });
}

async function unitsOf(chain: Source): Promise<string[]> {
  const units: string[] = [];
  for await (const { extents } of walkExtents(chain)) {
    for (const { offset, length, kind, depth, layer: holder } of extents) {
      for (let at = offset; at < offset + length; at += UNIT) {
        const index = Math.floor(at / UNIT);
        const character = kind === 'data' ? (holder as Source).name[index] : kind === 'zero' ? '0' : '.';
        units[index] = character + depth;
      }
    }
  }
  return units;
}

test('a layer alone is its own chain', (t) => {
  const only = layer('ab');
  t.is(joinLayers([only]), only);
});

test('each unit comes from the highest layer that holds it, also behind shorter and longer layers', async (t) => {
  const units = fc.array(fc.constantFrom('a', 'b', '0', '.', '.', '.'), { minLength: 1, maxLength: 40 });
  const layers = fc.array(fc.tuple(units, fc.integer({ min: 1, max: 8 })), { minLength: 2, maxLength: 6 });
  await fc.assert(
    fc.asyncProperty(layers, async (given) => {
      const texts = given.map(([characters]) => characters.join(''));
      const chain = joinLayers(given.map(([, step], index) => layer(texts[index], step)));
      const expected = model(texts);
      t.deepEqual(await unitsOf(chain), expected);
      const disk = Buffer.alloc(chain.size, 0xff);
      await chain.read(0, disk);
      expected.forEach(([character], index) => {
        t.is(disk[index * UNIT], kindOf(character) === 'data' ? character.charCodeAt(0) : 0);
      });
    }),
    { numRuns: 300 },
  );
});

test('neighbours are one extent, whatever layers were asked', async (t) => {
  const chain = joinLayers([layer('..a..', 1), layer('.....', 1), layer('bb.bb', 1)]);
  const extents: string[] = [];
  for await (const batch of walkExtents(joinLayers([layer('.....'), layer('b.bb.')]))) {
    for (const { offset, length, kind } of batch) extents.push(`${kind} ${offset / UNIT} ${length / UNIT}`);
  }
  t.deepEqual(extents, ['data 0 1', 'unallocated 1 1', 'data 2 2', 'unallocated 4 1']);
  t.deepEqual(await unitsOf(chain), ['b2', 'b2', 'a0', 'b2', 'b2']);
});

test('the questions to the layers of a deep chain do not follow the number of extents', async (t) => {
  const checkered = '.a'.repeat(500);
  const layers = Array.from({ length: 100 }, (_, depth) => layer(depth === 99 ? 'b'.repeat(1000) : checkered));
  const chain = joinLayers(layers);
  t.is((await chain.map(0, chain.size)).length, 1000);
  for (const { asked } of layers) t.is(asked, 1);
});

test('many extents of different layers load together', async (t) => {
  const chain = joinLayers([layer('a.0.'), layer('.b..')]);
  const extents = await chain.map(0, chain.size);
  const buffers = extents.map(({ length }) => Buffer.alloc(length, 0xff));
  await chain.readMany?.(extents, buffers);
  t.deepEqual(
    Buffer.concat(buffers).filter((_, index) => index % UNIT === 0),
    Buffer.from('ab\0\0'),
  );
});
