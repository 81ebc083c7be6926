/** The package's build of Argon2 alone, a seventh of the whole. */
declare module 'hash-wasm/dist/argon2.umd.min.js' {
  const argon2: Pick<typeof import('hash-wasm'), 'argon2i' | 'argon2id'>;
  export default argon2;
}
