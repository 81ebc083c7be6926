/**
 * A small assembler of WebAssembly with 128-bit vectors (WebAssembly Core Specification 2.0): just what the loops of
 * ciphers need. Instructions are expressions: each takes the code of its operands and gives its own. So there is
 * neither a build step nor a binary that nobody can read.
 */

/** Code of one or more instructions; of an expression, it leaves its value on the stack. */
export type Code = readonly number[];

export interface WasmFunction {
  name: string;
  /** How many parameters it takes, all i32: locals 0, 1, … */
  parameters: number;
  /** How many more i32 it has: the locals after the parameters. */
  integers?: number;
  /** How many vectors it has: the locals after those. */
  vectors?: number;
  body: readonly Code[];
}

/** Functions and the memory that they work on. */
export interface WasmInstance {
  readonly memory: Buffer;
  readonly functions: Readonly<Record<string, (...parameters: number[]) => void>>;
}

/** All that is used of WebAssembly, which Node's own types leave out. */
declare const WebAssembly: {
  Module: new (binary: Uint8Array) => object;
  Instance: new (module: object) => { exports: Record<string, unknown> };
};

const PAGE = 64 * 1024;

/** Makes the functions, with `bytes` of zeroed memory. Throws whatever an engine without WebAssembly or vectors throws. */
export function instantiate(functions: readonly WasmFunction[], bytes: number): WasmInstance {
  const module = new WebAssembly.Module(Uint8Array.from(encodeModule(functions, Math.ceil(bytes / PAGE))));
  const { memory, ...rest } = new WebAssembly.Instance(module).exports;
  return {
    memory: Buffer.from((memory as { buffer: ArrayBuffer }).buffer),
    functions: rest as WasmInstance['functions'],
  };
}

// --- Instructions ---

export const get = (local: number): Code => [0x20, ...unsigned(local)];
export const set = (local: number, value: Code): Code => [...value, 0x21, ...unsigned(local)];
export const constant = (value: number): Code => [0x41, ...signed(value)];
export const add = (a: Code, b: Code): Code => [...a, ...b, 0x6a];

/** Adds a constant to a local. */
export const advance = (local: number, by: number): Code => set(local, add(get(local), constant(by)));

/** Does `body` as often as the local says, at least once; leaves it 0. */
export const repeat = (local: number, body: readonly Code[]): Code => {
  const countDown = [...get(local), ...constant(1), 0x6b, 0x22, ...unsigned(local)];
  return [0x03, 0x40, ...body.flat(), ...countDown, 0x0d, 0, 0x0b];
};

/** The 16 bytes at an address plus a constant. */
export const load = (address: Code, offset = 0): Code => [...address, ...vector(0x00), 4, ...unsigned(offset)];
export const store = (address: Code, value: Code, offset = 0): Code => [
  ...address,
  ...value,
  ...vector(0x0b),
  4,
  ...unsigned(offset),
];
/** The 4 bytes at an address plus a constant, four times. */
export const loadSplat = (address: Code, offset: number): Code => [...address, ...vector(0x09), 2, ...unsigned(offset)];
/** A vector of 16 bytes. */
export const bytes16 = (bytes: readonly number[]): Code => [...vector(0x0c), ...bytes];
/** Picks 16 of the 32 bytes of `a` and `b`. */
export const shuffle = (a: Code, b: Code, lanes: readonly number[]): Code => [...a, ...b, ...vector(0x0d), ...lanes];

export const not = (a: Code): Code => [...a, ...vector(0x4d)];
export const and = (a: Code, b: Code): Code => [...a, ...b, ...vector(0x4e)];
export const andNot = (a: Code, b: Code): Code => [...a, ...b, ...vector(0x4f)];
export const or = (a: Code, b: Code): Code => [...a, ...b, ...vector(0x50)];
export const xor = (a: Code, b: Code): Code => [...a, ...b, ...vector(0x51)];

/** Shifts of each 32-bit or 64-bit lane by a constant. */
export const shiftLeft32 = (a: Code, by: number): Code => [...a, ...constant(by), ...vector(0xab)];
export const shiftRight32 = (a: Code, by: number): Code => [...a, ...constant(by), ...vector(0xad)];
export const shiftLeft64 = (a: Code, by: number): Code => [...a, ...constant(by), ...vector(0xcb)];
/** Copies the sign in from the left. */
export const shiftRightSigned64 = (a: Code, by: number): Code => [...a, ...constant(by), ...vector(0xcc)];
/** Rotates each 32-bit lane of a local to the left. */
export const rotateLeft32 = (local: number, by: number): Code =>
  or(shiftLeft32(get(local), by), shiftRight32(get(local), 32 - by));

// --- Encoding (chapter 5 of the specification) ---

const I32 = 0x7f;
const V128 = 0x7b;

/** Opcode of a vector instruction. */
function vector(opcode: number): number[] {
  return [0xfd, ...unsigned(opcode)];
}

/** LEB128. */
function unsigned(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest % 0x80) | 0x80);
  bytes.push(rest);
  return bytes;
}

/** Signed LEB128 of a 32-bit integer. */
function signed(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest < -0x40 || rest >= 0x40; rest >>= 7) bytes.push((rest & 0x7f) | 0x80);
  bytes.push(rest & 0x7f);
  return bytes;
}

const MAGIC_AND_VERSION = [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
const [TYPES, FUNCTIONS, MEMORIES, EXPORTS, CODES] = [1, 3, 5, 7, 10];
const [EXPORT_FUNCTION, EXPORT_MEMORY] = [0, 2];

function encodeModule(functions: readonly WasmFunction[], pages: number): number[] {
  const exports = functions.map(({ name }, index) => exported(name, EXPORT_FUNCTION, index));
  return [
    ...MAGIC_AND_VERSION,
    ...section(
      TYPES,
      functions.map(({ parameters }) => [0x60, ...list(Array(parameters).fill([I32])), 0]),
    ),
    ...section(
      FUNCTIONS,
      functions.map((_, index) => unsigned(index)),
    ),
    ...section(MEMORIES, [[1, ...unsigned(pages), ...unsigned(pages)]]),
    ...section(EXPORTS, [...exports, exported('memory', EXPORT_MEMORY, 0)]),
    ...section(CODES, functions.map(encodeBody)),
  ];
}

function encodeBody({ integers = 0, vectors = 0, body }: WasmFunction): number[] {
  const locals = list([
    [...unsigned(integers), I32],
    [...unsigned(vectors), V128],
  ]);
  return sized([...locals, ...body.flat(), 0x0b]);
}

function section(id: number, entries: readonly Code[]): number[] {
  return [id, ...sized(list(entries))];
}

function exported(name: string, kind: number, index: number): number[] {
  return [...sized([...Buffer.from(name)]), kind, ...unsigned(index)];
}

function sized(bytes: readonly number[]): number[] {
  return unsigned(bytes.length).concat(bytes);
}

function list(entries: readonly Code[]): number[] {
  return unsigned(entries.length).concat(entries.flat());
}
