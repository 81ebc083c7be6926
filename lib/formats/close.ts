import type { Target } from '../sinks/target.ts';

/** Closes `other` (a backing chain) after the target, however that ends. */
export function alsoClose(target: Target, other: { close(): Promise<void> }): Target {
  const close = target.close.bind(target);
  const abort = target.abort.bind(target);
  target.close = () => close().finally(() => other.close());
  target.abort = () => abort().finally(() => other.close());
  return target;
}
