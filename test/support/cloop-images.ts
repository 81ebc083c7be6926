import { deflateSync } from 'node:zlib';

const SCRIPT = '#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\nexit $?\n';
const HEADER_BYTES = 136;

/** A compressed loop image of `disk`, whose last block is filled up with zeros. */
export function makeCloop(disk: Buffer, blockSize = 65536): Buffer {
  const blocks = Math.ceil(disk.length / blockSize);
  const header = Buffer.alloc(HEADER_BYTES);
  header.write(SCRIPT, 0);
  header.writeUInt32BE(blockSize, 128);
  header.writeUInt32BE(blocks, 132);
  const offsets = Buffer.alloc((blocks + 1) * 8);
  const packed: Buffer[] = [];
  let at = HEADER_BYTES + offsets.length;
  for (let block = 0; block <= blocks; block += 1) {
    offsets.writeBigUInt64BE(BigInt(at), block * 8);
    if (block === blocks) break;
    const plain = Buffer.alloc(blockSize);
    disk.copy(plain, 0, block * blockSize);
    packed.push(deflateSync(plain));
    at += packed[block].length;
  }
  return Buffer.concat([header, offsets, ...packed]);
}
