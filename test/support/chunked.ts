import type { ChunkStream } from '../../lib/storage/chunks.ts';

/**
 * Bytes as a chunk stream, cut at random. A chunk's memory is spoiled once the next one is asked for, as a real
 * stream's is used again: whoever holds on to it shows up.
 */
export async function* chunked(bytes: Buffer, random: () => number, most = 5000): ChunkStream {
  for (let at = 0; at < bytes.length; ) {
    const chunk = Buffer.from(bytes.subarray(at, at + 1 + Math.floor(random() * most)));
    at += chunk.length;
    yield chunk;
    chunk.fill(0xaa);
  }
}

/** Numbers in [0, 1), always the same ones for a seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
