import { formatSize } from '../../core/units.ts';
import type { Output } from '../output.ts';

/** `none`: silent, but SIGUSR1 is answered. `plain`: qemu-img's line. `bar`: for people. `json`: for programs. */
export type ProgressStyle = 'none' | 'plain' | 'bar' | 'json';

export interface ProgressOptions {
  style: ProgressStyle;
  /** Standard output carries the image: show everything on standard error. */
  toStderr?: boolean;
  /** Milliseconds, for tests. */
  now?: () => number;
}

// A step is worth showing when it is one percent; a live display also when so much time has passed.
const MIN_STEP_PERCENT = 1;
const MIN_INTERVAL_MS = 200;
const BAR_CELLS = 30;

/** How far a verb is, shown in one of the styles. */
export class Progress {
  readonly #output: Output;
  readonly #style: ProgressStyle;
  readonly #toStderr: boolean;
  readonly #now: () => number;
  readonly #started: number;
  #done = 0;
  #total = 0;
  #shownPercent = Number.NEGATIVE_INFINITY;
  #shownAt = Number.NEGATIVE_INFINITY;

  constructor(output: Output, options: ProgressOptions) {
    this.#output = output;
    this.#style = options.style;
    this.#toStderr = options.toStderr === true;
    this.#now = options.now ?? Date.now;
    this.#started = this.#now();
    this.#show();
  }

  /** 0 to 100. */
  get percent(): number {
    return this.#total > 0 ? Math.min(100, (this.#done / this.#total) * 100) : 0;
  }

  update(done: number, total: number): void {
    this.#done = done;
    this.#total = total;
    const { percent } = this;
    const step = percent >= this.#shownPercent + MIN_STEP_PERCENT || (percent === 100 && this.#shownPercent !== 100);
    const live = this.#style === 'bar' || this.#style === 'json';
    if (live ? step || this.#now() - this.#shownAt >= MIN_INTERVAL_MS : step) this.#show();
  }

  /** All is done: shows 100 percent, whatever was counted. */
  complete(): void {
    if (this.#total === 0) this.#total = 1;
    this.#done = this.#total;
    this.#show();
  }

  /** Ends the line of the display. */
  end(): void {
    if (this.#style === 'plain' || this.#style === 'bar') this.#put('\n');
  }

  /** One line on standard error, for SIGUSR1. */
  report(): void {
    this.#output.writeError(`    (${this.percent.toFixed(2)}/100%)\n`);
  }

  #show(): void {
    this.#shownPercent = this.percent;
    this.#shownAt = this.#now();
    if (this.#style === 'plain') this.#put(`    (${this.percent.toFixed(2)}/100%)\r`);
    else if (this.#style === 'bar') this.#put(`\r${this.#bar()}`);
    else if (this.#style === 'json') this.#output.writeError(`${JSON.stringify(this.#numbers())}\n`);
  }

  #put(text: string): void {
    if (this.#toStderr) this.#output.writeError(text);
    else {
      this.#output.write(text);
      this.#output.flush();
    }
  }

  #numbers() {
    const seconds = (this.#now() - this.#started) / 1000;
    const rate = seconds > 0 ? Math.round(this.#done / seconds) : 0;
    return {
      percent: Number(this.percent.toFixed(2)),
      done: this.#done,
      total: this.#total,
      seconds: Number(seconds.toFixed(3)),
      bytesPerSecond: rate,
      secondsLeft: rate > 0 ? Math.ceil((this.#total - this.#done) / rate) : null,
    };
  }

  #bar(): string {
    const { percent, bytesPerSecond, secondsLeft } = this.#numbers();
    const cells = Math.round((percent / 100) * BAR_CELLS);
    const bar = '#'.repeat(cells).padEnd(BAR_CELLS);
    const left = secondsLeft === null ? '--:--' : clock(secondsLeft);
    // Padded, so that a shorter line covers a longer one before it.
    return `[${bar}] ${percent.toFixed(1).padStart(5)}%  ${formatSize(bytesPerSecond)}/s  ${left} left`.padEnd(72);
  }
}

function clock(seconds: number): string {
  const rest = `${String(Math.floor(seconds / 60) % 60).padStart(2, '0')}:${String(seconds % 60).padStart(2, '0')}`;
  return seconds < 3600 ? rest : `${Math.floor(seconds / 3600)}:${rest}`;
}
