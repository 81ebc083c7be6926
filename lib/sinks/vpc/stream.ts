import { ImageError } from '../../core/errors.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import { tracePoint } from '../../core/trace.ts';
import { DiskType } from '../../layouts/vpc/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { StreamImpossible } from '../stream.ts';
import type { ExtentPlan, Target } from '../target.ts';
import { newFooter } from './new-head.ts';
import { checkSettings, shapeOf } from './options.ts';
import { type DynamicStreamHead, streamHead } from './stream-head.ts';
import { type StreamBlocks, VpcStreamTarget } from './stream-target.ts';

/** What a driver gets for an image into a pipe (the shape of formats' StreamRequest). */
export interface VpcStreamRequest {
  storage: Storage;
  size: number | null;
  options: AnyOptionValues;
  plan: ExtentPlan | null;
}

/** How a fixed disk is cut up; it might be anything. */
const FIXED_BLOCK = 64 * 1024 * 1024;

const traceStream = tracePoint('vpc_stream');

/**
 * Begins a VHD that is written in one forward pass. A fixed disk is its bytes and the footer, so not even its size
 * need be known; of a dynamic one the table comes before the blocks, and follows from the plan. Throws
 * StreamImpossible where there is none.
 */
export async function createVpcStream({ storage, size, options, plan }: VpcStreamRequest): Promise<Target> {
  const settings = checkSettings(options);
  refuseUnstreamable(options);
  if (traceStream.enabled) traceStream.emit({ file: storage.name, fixed: settings.fixed, size });
  if (settings.fixed) {
    const shape = size === null ? null : shapeOf(size, settings);
    return new VpcStreamTarget(storage, {
      size: shape?.size ?? null,
      blocks: { blockSize: FIXED_BLOCK, bitmap: Buffer.alloc(0), wholeBlocks: false, isThere: () => true },
      finish(end) {
        const final = shape ?? shapeOf(end, settings);
        return { size: final.size, footer: newFooter(final, DiskType.fixed) };
      },
    });
  }
  if (size === null || plan === null) throw new StreamImpossible('what is in it shows only at its end');
  const head = await streamHead(shapeOf(size, settings), plan);
  await storage.write(0, head.bytes);
  return new VpcStreamTarget(storage, {
    size: head.size,
    blocks: blocksOf(head),
    finish: () => ({ size: head.size, footer: head.footer }),
  });
}

function blocksOf(head: DynamicStreamHead): StreamBlocks {
  const { blockSize, bitmapBytes } = head;
  return {
    blockSize,
    bitmap: Buffer.alloc(bitmapBytes, 0xff),
    wholeBlocks: true,
    isThere: (block) => head.isThere(block),
  };
}

function refuseUnstreamable({ preallocation = 'off', nocow = false, extent_size_hint: hint }: AnyOptionValues): void {
  if (preallocation === 'off' && nocow === false && hint === undefined) return;
  throw new ImageError('unsupported', 'A pipe has no space to preallocate or to tune', {
    format: 'vpc',
    operation: 'create',
  });
}
