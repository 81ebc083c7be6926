import type { Disks } from './disk.ts';

/** One line of the table: the same arguments for both programs, or two different commands. */
export interface Case {
  name: string;
  /** What the ratio should be at the most. */
  aim: number;
  /**
   * Arguments; `output` is a path that is removed before each run.
   * @param copy the path of a copy, by its name in `copies`
   */
  args(disks: Disks, output: string, copy: (name: string) => string): string[];
  /** Files that the command changes: by name, the disk that is copied there afresh before each run, outside the time that counts. */
  copies?(disks: Disks): Readonly<Record<string, string>>;
  /** Compared against this instead of qemu-img with the same arguments. */
  against?: readonly string[];
  /** Runs to take for short commands, times the usual number. */
  repeat?: number;
}
