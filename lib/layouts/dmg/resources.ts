import { ensure } from '../../core/errors.ts';

/**
 * The resource data of a resource fork ("More Macintosh Toolbox", 1-121, "Resource File Format"): after a header that says where, each
 * resource with its length before it. Its map says of which type each one is; what is a block table shows by itself.
 */
const HEADER_BYTES = 16;
const LENGTH_BYTES = 4;

/** The resources of a fork, one after the other. Throws a `corrupt` ImageError. */
export function* resourcesOf(fork: Buffer): Generator<Buffer, void, void> {
  ensure(fork.length >= HEADER_BYTES, 'The resource fork is too short');
  const start = fork.readUInt32BE(0);
  const length = fork.readUInt32BE(8);
  ensure(length > 0 && start + length <= fork.length, 'The resource data reach past the resource fork');
  const end = start + length;
  for (let at = start; at < end; ) {
    ensure(at + LENGTH_BYTES <= end, 'A resource reaches past the resource data');
    const size = fork.readUInt32BE(at);
    at += LENGTH_BYTES;
    ensure(size > 0 && at + size <= end, 'A resource reaches past the resource data');
    yield fork.subarray(at, at + size);
    at += size;
  }
}
