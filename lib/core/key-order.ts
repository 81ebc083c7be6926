/**
 * The order in which QEMU lists the keys of a JSON object. Its objects are hash tables of 512 buckets, listed from
 * the first bucket to the last, the newest key of a bucket first; so the order follows from the names alone
 * (and, for the rare two names of one bucket, from when they were put in). Scripts diff this output, so it is kept.
 */

const BUCKETS = 512n;
const WORD = 0xffff_ffffn;

/** The bucket of a name: the hash of the TDB database library, modulo 512. */
export function keyBucket(name: string): number {
  const bytes = Buffer.from(name);
  let hash = (0x238f_13afn * BigInt(bytes.length)) & WORD;
  for (let index = 0; index < bytes.length; index += 1) {
    hash = (hash + (BigInt(bytes[index]) << BigInt((index * 5) % 24))) & WORD;
  }
  return Number(((hash * 1_103_515_243n + 12_345n) & WORD) % BUCKETS);
}

/** Entries of `object`, without undefined values, in QEMU's order. Insertion order counts as time. */
export function orderedEntries<T>(object: Readonly<Record<string, T>>): [string, T][] {
  return Object.entries(object)
    .filter(([, value]) => value !== undefined)
    .map((entry, age) => ({ entry, age, bucket: keyBucket(entry[0]) }))
    .sort((left, right) => left.bucket - right.bucket || right.age - left.age)
    .map(({ entry }) => entry);
}
