/** A sound qcow2 image of the gallery, and what is done to it that a check finds and repairs without a loss. */
export interface Spoil {
  name: string;
  /** Of test/support/images.ts. */
  image: string;
  /** The disk has other contents afterwards; they stay. */
  other?: boolean;
  /** Changes the bytes, which are a copy. */
  spoil(bytes: Buffer): void;
}

const OFFSET_MASK = 0x00ff_ffff_ffff_fe00n;
const COPIED_BYTE = 0x80;

function offsetAt(bytes: Buffer, at: number): number {
  return Number(bytes.readBigUInt64BE(at) & OFFSET_MASK);
}

function clusterSize(bytes: Buffer): number {
  return 2 ** bytes.readUInt32BE(20);
}

/** Where the active L1 table begins. */
export function l1At(bytes: Buffer): number {
  return offsetAt(bytes, 40);
}

/** Where the first L2 table begins. */
export function l2At(bytes: Buffer): number {
  return offsetAt(bytes, l1At(bytes));
}

/** Where the refcount table begins. */
export function refcountTableAt(bytes: Buffer): number {
  return offsetAt(bytes, 48);
}

/** Sets the 16-bit refcount of a cluster that the first refcount block counts. */
export function setRefcount(bytes: Buffer, cluster: number, count: number): void {
  bytes.writeUInt16BE(count, offsetAt(bytes, refcountTableAt(bytes)) + cluster * 2);
}

/** The host cluster of the first data cluster in the first L2 table, and where its entry stands. */
function firstData(bytes: Buffer): { at: number; cluster: number } {
  const table = l2At(bytes);
  for (let at = table; at < table + clusterSize(bytes); at += 8) {
    const offset = offsetAt(bytes, at);
    if (offset !== 0) return { at, cluster: offset / clusterSize(bytes) };
  }
  throw new Error('no data');
}

/** Refcounts, flags and bits at fault; the disk's contents are all there. */
export const SPOILS: readonly Spoil[] = [
  { name: 'leaked clusters', image: 'plain', spoil: (bytes) => addLeaks(bytes) },
  {
    name: 'a refcount that is too high',
    image: 'plain',
    spoil: (bytes) => setRefcount(bytes, firstData(bytes).cluster, 2),
  },
  {
    name: 'clusters in use that count as free',
    image: 'plain',
    spoil(bytes) {
      for (let more = 0; more < 3; more += 1) setRefcount(bytes, firstData(bytes).cluster + more, 0);
    },
  },
  {
    name: 'a refcount of a shared cluster that is too low',
    image: 'snapshots',
    spoil: (bytes) => setRefcount(bytes, 13, 1),
  },
  {
    name: 'a missing refcount block',
    image: 'plain',
    spoil: (bytes) => void bytes.fill(0, refcountTableAt(bytes), refcountTableAt(bytes) + 8),
  },
  {
    name: 'a refcount block that is a data cluster',
    image: 'defaults',
    spoil: (bytes) =>
      void bytes.writeBigUInt64BE(BigInt(firstData(bytes).cluster * clusterSize(bytes)), refcountTableAt(bytes) + 8),
  },
  {
    name: 'a data cluster that two L2 entries refer to',
    image: 'plain',
    other: true,
    spoil: (bytes) => void bytes.copy(bytes, firstData(bytes).at + 8, firstData(bytes).at, firstData(bytes).at + 8),
  },
  { name: 'no refcount table at all', image: 'plain', spoil: (bytes) => void bytes.writeUInt32BE(0, 56) },
  {
    name: 'an L1 entry without its copied flag',
    image: 'plain',
    spoil(bytes) {
      bytes[l1At(bytes)] ^= COPIED_BYTE;
    },
  },
  {
    name: 'an L2 entry without its copied flag',
    image: 'snapshots',
    spoil(bytes) {
      bytes[firstData(bytes).at] ^= COPIED_BYTE;
    },
  },
  {
    name: 'the dirty bit and stale refcounts',
    image: 'plain',
    spoil(bytes) {
      bytes[79] |= 1;
      addLeaks(bytes);
      setRefcount(bytes, firstData(bytes).cluster, 0);
    },
  },
  {
    name: 'the corrupt bit alone, and a leak',
    image: 'snapshots',
    spoil(bytes) {
      bytes[79] |= 2;
      addLeaks(bytes);
    },
  },
  {
    name: 'an incomplete entry in the snapshot table',
    image: 'snapshots',
    spoil(bytes) {
      // The extra data of the last entry become its name: without them, it lacks the disk's size.
      const first = offsetAt(bytes, 64);
      const at = first + entryLength(bytes, first);
      const extra = bytes.readUInt32BE(at + 36);
      const name = Buffer.from(bytes.subarray(at + 40 + extra, at + entryLength(bytes, at)));
      bytes.writeUInt32BE(8, at + 36);
      name.copy(bytes, at + 48);
    },
  },
];

function entryLength(bytes: Buffer, at: number): number {
  const rest = bytes.readUInt32BE(at + 36) + bytes.readUInt16BE(at + 12) + bytes.readUInt16BE(at + 14);
  return Math.ceil((40 + rest) / 8) * 8;
}

/** Free clusters inside the file that count as used: there is one at least, where qemu-io discarded. */
function addLeaks(bytes: Buffer): void {
  const block = offsetAt(bytes, refcountTableAt(bytes));
  const clusters = Math.floor(bytes.length / clusterSize(bytes));
  let leaks = 0;
  for (let cluster = 0; cluster < clusters && leaks < 3; cluster += 1) {
    if (bytes.readUInt16BE(block + cluster * 2) !== 0) continue;
    bytes.writeUInt16BE(1, block + cluster * 2);
    leaks += 1;
  }
  // Without a free cluster inside the file, one that is in use has a reference too many.
  if (leaks === 0)
    setRefcount(bytes, firstData(bytes).cluster, bytes.readUInt16BE(block + firstData(bytes).cluster * 2) + 1);
}
