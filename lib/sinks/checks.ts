import type { SourceRequest } from '../sources/source.ts';

/**
 * What a driver gets to check an image with. `storage` and what `metadataOnly` with `forCheck` needs of the image have
 * been opened before, so a file whose header makes no sense never comes here. `writable` is true exactly if `repair` is not null.
 */
export interface CheckRequest extends SourceRequest {
  /** `-r`: what may be repaired; null changes nothing. */
  repair: 'leaks' | 'all' | null;
  /**
   * One line about what was found or done, in qemu-img's words, without a line's end. It goes to standard error, and
   * with `named` behind the program's name.
   */
  report(line: string, named?: boolean): void;
}

/** What a check found: QAPI's ImageCheck. Optional counts are left out of the output also where they are 0. */
export interface CheckReport {
  /** Errors of the check itself: what could not be read, say. */
  checkErrors: number;
  /** Found and not repaired. */
  corruptions: number;
  /** Found and not given back. */
  leaks: number;
  corruptionsFixed: number;
  leaksFixed: number;
  /** Where the image's data end in the file; absent where the format can't tell. */
  imageEndOffset?: number;
  totalClusters?: number;
  allocatedClusters?: number;
  fragmentedClusters?: number;
  compressedClusters?: number;
}

/** The report of an image without faults. */
export function cleanReport(): CheckReport {
  return { checkErrors: 0, corruptions: 0, leaks: 0, corruptionsFixed: 0, leaksFixed: 0 };
}
