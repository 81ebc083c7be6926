import { PIECE } from '../modes/mode.ts';
import {
  add,
  advance,
  and,
  bytes16,
  type Code,
  get,
  instantiate,
  load,
  repeat,
  set,
  shiftLeft64,
  shiftRightSigned64,
  shuffle,
  store,
  type WasmFunction,
  xor,
} from './assembler.ts';

/**
 * The arithmetic of modes beside the cipher's own, on memory of its own. Everything here is done at once, so one kernel
 * serves all ciphers of a thread, each from its filling it to its emptying it.
 */
export interface Kernel {
  /** A piece of the disk. */
  readonly data: Buffer;
  /** What is XORed with it: as long. */
  readonly mask: Buffer;
  /** The first tweak of each sector of the piece. */
  readonly tweaks: Buffer;
  /** XORs the tweaks of XTS into `data`, and leaves them in `mask`: all of `sectors` of `blocks` blocks of 16 bytes. */
  whiten(sectors: number, blocks: number): void;
  /** XORs `length` bytes of `mask` into `data`; a multiple of 16. */
  xor(length: number): void;
  /** XORs into the first `count` blocks of `tweaks` those of 16 bytes at `at`, `at + stride`, … of `data`. */
  gather(at: number, stride: number, count: number): void;
  /** Puts the first `count` blocks of `tweaks` to `at`, `at + stride`, … */
  scatter(area: 'data' | 'mask', at: number, stride: number, count: number): void;
}

const BLOCK = 16;
/** Sectors have 512 bytes at the least. */
const TWEAKS = (PIECE / 512) * BLOCK;

let kernel: Kernel | null = null;

/** The kernel of this thread. */
export function sharedKernel(): Kernel {
  if (kernel === null) {
    try {
      kernel = vectorKernel();
    } catch {
      // No WebAssembly, or none with vectors: slower, that's all.
      kernel = plainKernel();
    }
  }
  return kernel;
}

/**
 * Where the areas are in the memory. None begins at a page's start or close behind it, as buffers do that they are copied
 * from and to: some processors copy ten times slower where both lie almost alike in their pages (measured on an AMD EPYC:
 * 35 µs for 64 KiB in place of 3). Nor do two of them lie alike.
 */
const DATA = 1024;
const MASK = DATA + PIECE + 1024;
const TWEAKS_AT = MASK + PIECE;

/** By WebAssembly's vectors. */
export function vectorKernel(): Kernel {
  const made = [whitenFunction(), xorFunction(), gatherFunction(), scatterFunction()];
  const { memory, functions } = instantiate(made, TWEAKS_AT + TWEAKS);
  return {
    data: memory.subarray(DATA, DATA + PIECE),
    mask: memory.subarray(MASK, MASK + PIECE),
    tweaks: memory.subarray(TWEAKS_AT, TWEAKS_AT + TWEAKS),
    whiten: (sectors, blocks) => functions.whiten(DATA, MASK, TWEAKS_AT, sectors, blocks),
    xor: (length) => functions.xor(DATA, MASK, length / BLOCK),
    gather: (at, stride, count) => functions.gather(DATA + at, TWEAKS_AT, stride, count),
    scatter: (area, at, stride, count) =>
      functions.scatter((area === 'data' ? DATA : MASK) + at, TWEAKS_AT, stride, count),
  };
}

function whitenFunction(): WasmFunction {
  const [data, mask, tweaks, sectors, blocks, left, tweak] = [0, 1, 2, 3, 4, 5, 6];
  const block = [
    store(get(mask), get(tweak)),
    store(get(data), xor(load(get(data)), get(tweak))),
    set(tweak, timesX(tweak)),
    advance(data, BLOCK),
    advance(mask, BLOCK),
  ];
  const sector = [set(tweak, load(get(tweaks))), set(left, get(blocks)), repeat(left, block), advance(tweaks, BLOCK)];
  return { name: 'whiten', parameters: 5, integers: 1, vectors: 1, body: [repeat(sectors, sector)] };
}

/**
 * Times x in GF(2^128), little-endian, modulo x^128 + x^7 + x^2 + x + 1 (IEEE 1619-2007, 5.2): both halves are shifted;
 * what the low half loses is the high half's 1, and what the high half loses is 0x87 in the low half.
 */
function timesX(tweak: number): Code {
  const swapped = shuffle(get(tweak), get(tweak), [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7]);
  const carries = bytes16([0x87, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
  return xor(shiftLeft64(get(tweak), 1), and(shiftRightSigned64(swapped, 63), carries));
}

function xorFunction(): WasmFunction {
  const [data, mask, blocks] = [0, 1, 2];
  const block = [store(get(data), xor(load(get(data)), load(get(mask)))), advance(data, BLOCK), advance(mask, BLOCK)];
  return { name: 'xor', parameters: 3, body: [repeat(blocks, block)] };
}

function gatherFunction(): WasmFunction {
  const [data, chains, stride, count] = [0, 1, 2, 3];
  const block = [
    store(get(chains), xor(load(get(chains)), load(get(data)))),
    set(data, add(get(data), get(stride))),
    advance(chains, BLOCK),
  ];
  return { name: 'gather', parameters: 4, body: [repeat(count, block)] };
}

function scatterFunction(): WasmFunction {
  const [area, chains, stride, count] = [0, 1, 2, 3];
  const block = [store(get(area), load(get(chains))), set(area, add(get(area), get(stride))), advance(chains, BLOCK)];
  return { name: 'scatter', parameters: 4, body: [repeat(count, block)] };
}

/** By 32-bit integers of JavaScript. */
export function plainKernel(): Kernel {
  const [data, mask] = [new Int32Array(PIECE / 4), new Int32Array(PIECE / 4)];
  const tweaks = Buffer.alloc(TWEAKS);
  const maskView = new DataView(mask.buffer);
  const areas = { data: Buffer.from(data.buffer), mask: Buffer.from(mask.buffer) };
  const xor = (length: number) => {
    for (let index = 0; index < length / 4; index += 1) data[index] ^= mask[index];
  };
  return {
    ...areas,
    tweaks,
    gather(at, stride, count) {
      for (let index = 0; index < count * BLOCK; index += 1) {
        tweaks[index] ^= areas.data[at + Math.floor(index / BLOCK) * stride + (index % BLOCK)];
      }
    },
    scatter(area, at, stride, count) {
      for (let index = 0; index < count; index += 1) {
        tweaks.copy(areas[area], at + index * stride, index * BLOCK, (index + 1) * BLOCK);
      }
    },
    whiten(sectors, blocks) {
      for (let sector = 0; sector < sectors; sector += 1) {
        writeTweaks(tweaks, sector * BLOCK, maskView, sector * blocks * BLOCK, blocks);
      }
      xor(sectors * blocks * BLOCK);
    },
    xor,
  };
}

/** Writes the tweaks of a sector to `at`, given the first of them. */
function writeTweaks(tweaks: Buffer, from: number, mask: DataView, at: number, blocks: number): void {
  let [a, b, c, d] = [0, 4, 8, 12].map((part) => tweaks.readInt32LE(from + part));
  for (let place = at; place < at + blocks * BLOCK; place += BLOCK) {
    mask.setInt32(place, a, true);
    mask.setInt32(place + 4, b, true);
    mask.setInt32(place + 8, c, true);
    mask.setInt32(place + 12, d, true);
    const carry = (d >> 31) & 0x87;
    d = (d << 1) | (c >>> 31);
    c = (c << 1) | (b >>> 31);
    b = (b << 1) | (a >>> 31);
    a = (a << 1) ^ carry;
  }
}
