import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pattern } from './model.ts';
import { tool } from './tools.ts';
import { words } from './words.ts';

const SCRIPT = `
  create -q -f raw hole.raw 10M
  create -q -f raw empty.raw 0
  create -q -f qcow2 a.qcow2 1G
  io -f qcow2 -c 'write -P 1 0 1M' a.qcow2
  snapshot -c s1 a.qcow2
  snapshot -c 'a long name for a snapshöt' a.qcow2
  bitmap --add a.qcow2 bm0
  create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2
  io -f qcow2 -c 'write -P 2 0 64k' -c 'write -z 128k 128k' -c 'write -z -u 512k 64k' b.qcow2
  create -q -f qcow2 -b b.qcow2 -F qcow2 'sp ace.qcow2'
  create -q -f qcow2 -o compat=0.10,cluster_size=4k v2.qcow2 100M
  create -q -f qcow2 -o data_file=ext.data,data_file_raw=on ext.qcow2 3M
  create -q -f qcow2 -o compression_type=zstd,extended_l2=on,lazy_refcounts=on,refcount_bits=64 z.qcow2 123456789
  bitmap --add --disable -g 128k z.qcow2 bm1
  bitmap --add z.qcow2 bm2
  create -q -f qcow2 empty.qcow2 1M
  create -q -f qcow2 -u -b nope.qcow2 -F qcow2 lost.qcow2 1M
  convert -f raw -O qcow2 src.raw src.qcow2
  convert -f raw -O qcow2 -c src.raw comp.qcow2
  convert -f raw -O raw src.raw same.raw
`;

const SIZE = 40 * 64 * 1024;
const MIB = 1024 * 1024;

/** Makes the images that the command-line tables speak of in `directory`; needs qemu-img and qemu-io. */
export function makeCliImages(directory: string): void {
  const bytes = pattern(SIZE, 7);
  writeFileSync(join(directory, 'src.raw'), bytes);
  const other = Buffer.from(bytes);
  other[70_000] ^= 1;
  writeFileSync(join(directory, 'other.raw'), other);
  const longer = Buffer.concat([bytes, Buffer.alloc(MIB)]);
  writeFileSync(join(directory, 'longer.raw'), longer);
  longer[3_000_000] = 1;
  writeFileSync(join(directory, 'tail.raw'), longer);
  writeFileSync(join(directory, 'odd.raw'), bytes.subarray(0, 1234));
  for (const line of SCRIPT.trim().split('\n')) {
    const [verb, ...args] = words(line.trim());
    if (verb === 'io') tool('qemu-io').expect(args, { cwd: directory });
    else tool('qemu-img').expect([verb, ...args], { cwd: directory });
  }
}
