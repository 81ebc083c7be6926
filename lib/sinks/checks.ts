import type { SourceRequest } from '../sources/source.ts';

/** What the check of a format gets: see `Driver.check`. */
export interface ImageCheckRequest extends SourceRequest {
  /** What may be repaired; null changes nothing. */
  repair: 'leaks' | 'all' | null;
  /** One line about what was found or done, in qemu-img's words; `named`: behind the program's name. */
  report(line: string, named?: boolean): void;
}

/** What a check counts: see `CheckReport` of the drivers. */
export interface ImageCheckReport {
  checkErrors: number;
  corruptions: number;
  leaks: number;
  corruptionsFixed: number;
  leaksFixed: number;
  imageEndOffset?: number;
  totalClusters?: number;
  allocatedClusters?: number;
  fragmentedClusters?: number;
}

/** The report of an image without faults. */
export function cleanReport(): ImageCheckReport {
  return { checkErrors: 0, corruptions: 0, leaks: 0, corruptionsFixed: 0, leaksFixed: 0 };
}
