import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { hasCookie } from '../../layouts/vpc/index.ts';
import { ForwardImpossible, forwardInput } from '../forward.ts';
import type { ForwardSource, SourceRequest } from '../source.ts';
import { DynamicForward } from './forward-dynamic.ts';
import { FixedForward } from './forward-fixed.ts';
import { planForward } from './forward-plan.ts';

const traceForward = tracePoint('vpc_forward');

/**
 * Opens a VHD that comes through a pipe: a dynamic disk whose table is in the pipe's head and whose blocks follow in
 * guest order, or a fixed disk, whose size shows at its end. Throws ForwardImpossible, with nothing consumed, where
 * that is not so.
 */
export async function openVpcForward({ storage }: SourceRequest): Promise<ForwardSource> {
  const input = forwardInput(storage);
  if (!hasCookie(await input.peek(8))) {
    if (traceForward.enabled) traceForward.emit({ file: input.name, fixed: true });
    return new FixedForward(input);
  }
  try {
    const plan = await planForward(input);
    if (traceForward.enabled) traceForward.emit({ file: input.name, fixed: false, size: plan.size });
    return new DynamicForward(input, plan);
  } catch (error) {
    // Damage too: the image is then opened from a file, which says the rest.
    if (error instanceof ImageError && error.kind === 'corrupt') throw new ForwardImpossible(error.message);
    throw error;
  }
}
