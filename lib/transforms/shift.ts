import type { ByteReader, Extent } from '../core/extent.ts';

/** A reader whose bytes lie `by` further on. */
interface Shifted extends ByteReader {
  readMany?(extents: readonly Extent[], buffers: readonly Buffer[]): Promise<void>;
}

/**
 * Moves extents along the guest disk: `shifter(by)` gives a function that does it. The layers of the results are
 * wrapped (one wrapper for each layer), so that they can still be loaded.
 */
export function shifter(by: number): (from: Extent) => Extent {
  if (by === 0) return (from) => from;
  const wrappers = new Map<ByteReader, Shifted>();
  return (from) => {
    if (from.layer === null) return { ...from, offset: from.offset + by };
    let layer = wrappers.get(from.layer);
    if (layer === undefined) {
      layer = shiftReader(from.layer, by);
      wrappers.set(from.layer, layer);
    }
    return { ...from, offset: from.offset + by, layer };
  };
}

function shiftReader(reader: Shifted, by: number): Shifted {
  const shifted: Shifted = {
    name: reader.name,
    read: (offset, buffer) => reader.read(offset - by, buffer),
  };
  const { readMany } = reader;
  if (readMany !== undefined) {
    shifted.readMany = (extents, buffers) =>
      readMany.call(
        reader,
        extents.map((each) => ({ ...each, offset: each.offset - by, layer: reader })),
        buffers,
      );
  }
  return shifted;
}
