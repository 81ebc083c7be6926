/** What a run of guest bytes is. Small integers, because the walk compares them for every cluster. */
export const Run = { unallocated: 0, zero: 1, data: 2, compressed: 3 } as const;
export type RunKind = (typeof Run)[keyof typeof Run];

/**
 * Told of each run: guest bytes [offset, offset + length), all of one kind. `host` is where the run lies or has its
 * space (zero clusters, subclusters of a cluster that is there), ascending with the guest offset, or -1.
 */
export interface RunSink {
  run(kind: RunKind, offset: number, length: number, host: number): void;
  /** One compressed cluster; asked only where the sink wants each of them. */
  compressed?(offset: number, host: number, packedLength: number): void;
  /** The sink wants no more: the walk stops soon. */
  readonly full?: boolean;
}

/** Joins blocks into runs and cuts them to the range. */
export class RunBuilder {
  readonly sink: RunSink;
  readonly #start: number;
  readonly #end: number;
  #kind: RunKind = Run.unallocated;
  #offset: number;
  #length = 0;
  #host = -1;

  constructor(sink: RunSink, start: number, end: number) {
    this.sink = sink;
    this.#start = start;
    this.#end = end;
    this.#offset = start;
  }

  add(kind: RunKind, offset: number, length: number, host: number): void {
    const follows = this.#host < 0 ? host < 0 : host === this.#host + this.#length;
    if (this.#length > 0 && kind === this.#kind && follows) {
      this.#length += length;
      return;
    }
    this.finish();
    this.#kind = kind;
    this.#offset = offset;
    this.#length = length;
    this.#host = host;
  }

  /** Goes on at `offset`, after something that was reported past this builder. */
  skip(offset: number): void {
    this.#offset = offset;
    this.#length = 0;
  }

  /** Reports the run begun, cut to the range. */
  finish(): void {
    if (this.#length === 0) return;
    const from = Math.max(this.#offset, this.#start);
    const to = Math.min(this.#offset + this.#length, this.#end);
    const host = this.#host < 0 ? -1 : this.#host + (from - this.#offset);
    this.#length = 0;
    if (to > from) this.sink.run(this.#kind, from, to - from, host);
  }
}
