import { type Fault, faultyStorage, replayEvents, type StorageEvent } from '../../lib/storage/faulty.ts';
import { registerProtocol } from '../../lib/storage/index.ts';
import { type MemoryStorage, memoryStorage } from '../../lib/storage/memory.ts';
import type { Storage } from '../../lib/storage/storage.ts';
import { WrappedStorage } from '../../lib/storage/wrapped.ts';
import { Random } from '../support/model.ts';

/** Contents of files by name. */
export type Files = ReadonlyMap<string, Buffer>;

/** What happened to a file, in the one order of all files. */
export interface FileEvent {
  file: string;
  event: StorageEvent;
}

/**
 * What a disk without power has kept of the writes that no flush had made sure of: all of them; any of them; of any
 * of them any sectors.
 */
export type Loss = 'none' | 'whole' | 'torn';

/** Written at once, or not at all. */
const SECTOR = 512;
/** A write is torn into so many pieces at the most: large ones lose longer runs. */
const PIECES = 64;

const machines = new Map<string, Machine>();
let made = 0;

registerProtocol({
  name: 'power',
  creates: true,
  async open({ filename = '' }, options) {
    const [machine, file] = filename.split('/');
    return (machines.get(machine) as Machine).open(file, options.create === true);
  },
});

/**
 * Files in memory under names with a protocol, `power:1/image`, so that whole verbs work on them and images can refer to each other. It
 * tells what verbs do to the files, and makes writes fail.
 */
export class Machine {
  /** What images are opened with, besides their format: keys. */
  readonly options: Readonly<Record<string, string>>;
  readonly #id: string;
  readonly #files = new Map<string, MemoryStorage>();
  #record: FileEvent[] | null = null;
  #faults: Readonly<Record<string, readonly Fault[]>> = {};

  constructor(options: Readonly<Record<string, string>> = {}) {
    this.options = options;
    made += 1;
    this.#id = `power:${made}`;
    machines.set(this.#id, this);
  }

  /** What opens the file. */
  name(file: string): string {
    return `${this.#id}/${file}`;
  }

  /** What opens the image in the file, in place of a filename. */
  image(file: string, driver: string): string {
    return `json:${JSON.stringify({ driver, ...this.options, file: { driver: 'power', filename: this.name(file) } })}`;
  }

  get files(): Files {
    return new Map([...this.#files].map(([name, storage]) => [name, storage.bytes()]));
  }

  /** Puts files in place; others stay. */
  put(files: Files): void {
    for (const [file, bytes] of files) this.#files.set(file, memoryStorage(this.name(file), bytes));
  }

  bytes(file: string): Buffer {
    return this.#storage(file).bytes();
  }

  /** What `run` does to the files. */
  async record(run: () => Promise<unknown>): Promise<FileEvent[]> {
    const events: FileEvent[] = [];
    this.#record = events;
    try {
      await run();
    } finally {
      this.#record = null;
    }
    return events;
  }

  /** Runs with faults in the file; resolves to the error, or null. */
  async fail(file: string, faults: readonly Fault[], run: () => Promise<unknown>): Promise<unknown> {
    this.#faults = { [file]: faults };
    try {
      await run();
      return null;
    } catch (error) {
      return error;
    } finally {
      this.#faults = {};
    }
  }

  open(file: string, create: boolean): Storage {
    if (create && !this.#files.has(file)) this.#files.set(file, memoryStorage(this.name(file)));
    const record: StorageEvent[] = [];
    const events = this.#record;
    if (events !== null) record.push = (...news) => events.push(...news.map((event) => ({ file, event })));
    return faultyStorage(new KeptStorage(this.#storage(file)), { record, faults: this.#faults[file] });
  }

  #storage(file: string): MemoryStorage {
    const storage = this.#files.get(file);
    if (storage === undefined) throw new Error(`There is no ${file}`);
    return storage;
  }
}

/** Its bytes outlive it. */
class KeptStorage extends WrappedStorage {
  override async close(): Promise<void> {}
}

export interface CrashOptions {
  /** At most so many moments, chosen by chance. Default 25. */
  moments?: number;
  /** Each moment is looked at once for each of these. Default: for one of each kind. */
  losses?: readonly Loss[];
  seed?: number;
}

/** Calls `look` with the machine's files as they could be after a crash: at each moment while `events` happened to `start`. */
export async function eachCrash(
  machine: Machine,
  { start, events }: { start: Files; events: readonly FileEvent[] },
  look: (what: string, moment: number) => Promise<void>,
  { moments = 25, losses = ['none', 'whole', 'torn'], seed = events.length }: CrashOptions = {},
): Promise<void> {
  const random = new Random(seed);
  const all = Array.from({ length: events.length + 1 }, (_, count) => count);
  const chosen = all.length <= moments ? all : random.shuffled(all).slice(0, moments);
  for (const count of chosen) {
    for (const loss of losses) {
      const before = events.slice(0, count);
      for (const [file, bytes] of start) {
        const own = before.filter((each) => each.file === file).map(({ event }) => event);
        machine.put(new Map([[file, await afterCrash(bytes, own, { loss, random })]]));
      }
      await look(`after ${count} of ${events.length} operations, loss: ${loss}, seed ${seed}`, count);
    }
  }
}

/** What is in a storage after a crash: `events` happened to `start`, and what came after the last flush suffers `loss`. */
export async function afterCrash(
  start: Buffer,
  events: readonly StorageEvent[],
  { loss, random }: { loss: Loss; random: Random },
): Promise<Buffer> {
  const sure = events.findLastIndex(({ operation }) => operation === 'flush') + 1;
  const kept = events.flatMap((event, index) => {
    if (loss === 'none' || index < sure) return [event];
    const fate = random.below(loss === 'torn' ? 3 : 2);
    if (fate === 2) return tear(event).filter(() => random.below(2) === 0);
    return fate === 1 ? [event] : [];
  });
  const memory = memoryStorage('crashed', start);
  await replayEvents(kept, memory);
  return memory.bytes();
}

/** The event in pieces that begin and end on sectors. */
function tear(event: StorageEvent): StorageEvent[] {
  if (event.operation === 'flush' || event.operation === 'truncate') return [event];
  const length = event.operation === 'write' ? event.data.length : event.length;
  const end = event.offset + length;
  const step = Math.max(1, Math.ceil(length / PIECES / SECTOR)) * SECTOR;
  const pieces: StorageEvent[] = [];
  for (let at = event.offset; at < end; ) {
    const next = Math.min(end, (Math.floor(at / step) + 1) * step);
    if (event.operation === 'write') {
      const data = event.data.subarray(at - event.offset, next - event.offset);
      pieces.push({ operation: 'write', offset: at, data });
    } else pieces.push({ operation: event.operation, offset: at, length: next - at });
    at = next;
  }
  return pieces;
}
