import { join } from 'node:path';
import { createImage } from '../../lib/formats/create.ts';
import type { Driver } from '../../lib/formats/driver.ts';
import { drivers } from '../../lib/formats/index.ts';
import { openTarget } from '../../lib/formats/open-target.ts';
import type { Target } from '../../lib/sinks/target.ts';
import { type NodeSpec, parseFilename } from '../../lib/sources/filename.ts';
import { type OpenedImage, openImage } from '../../lib/sources/open.ts';
import { withTmpDir } from '../support/tmp.ts';
import { type FormatFacts, factsOf, SECRETS } from './facts.ts';

export interface CreateFacts {
  size: number | null;
  backing?: { filename: string; format: string };
  filename?: string;
}

/** A driver with one set of create options, in a directory of its own: what most tests work on. */
export class Subject {
  readonly driver: Driver;
  readonly facts: FormatFacts;
  readonly options: Readonly<Record<string, string>>;
  #directory = '';

  constructor(driver: Driver, options: Readonly<Record<string, string>>) {
    this.driver = driver;
    this.facts = factsOf(driver);
    this.options = options;
  }

  /** For titles: `qcow2 cluster_size=512`. */
  get title(): string {
    const pairs = Object.entries(this.options).map(([key, value]) => `${key}=${value.replace('{image}', 'image')}`);
    return [this.driver.name, ...pairs].join(' ');
  }

  /** Calls `use` with a copy of this subject that has an empty directory. */
  within<T>(use: (subject: Subject) => Promise<T>): Promise<T> {
    return withTmpDir((directory) => {
      const subject = new Subject(this.driver, this.options);
      subject.#directory = directory;
      return use(subject);
    });
  }

  /** This subject in the directory of another. */
  beside(other: Subject): Subject {
    this.#directory = other.#directory;
    return this;
  }

  path(name = 'image'): string {
    return join(this.#directory, name);
  }

  /** A new image. The cache mode saves the disk; what flush does is tested with the storages. */
  async create({ size, backing, filename = this.path() }: CreateFacts): Promise<Target> {
    const given = { ...this.facts.needs?.create, ...this.options };
    const options = Object.fromEntries(
      Object.entries(given).map(([key, value]) => [key, value.replace('{image}', filename)]),
    );
    const format = this.driver.name;
    const target = await createImage({ filename, format, size, options, backing, secrets: SECRETS, cache: 'unsafe' });
    if (this.facts.noisy) await target.zero(0, target.size);
    return target;
  }

  openTarget(filename = this.path()): Promise<Target> {
    return openTarget(this.#node(filename), { format: this.driver.name, secrets: SECRETS, cache: 'unsafe' });
  }

  /** What the header of an overlay calls it: a description, where its name alone does not open it. */
  nameAsBacking(filename: string): string {
    if (!('encrypt.format' in this.options)) return filename;
    const file = { driver: 'file', filename };
    return `json:${JSON.stringify({ driver: this.driver.name, file, ...this.facts.needs?.open })}`;
  }

  #node(filename: string): NodeSpec {
    return { ...parseFilename(filename), options: { ...this.facts.needs?.open } };
  }

  /** Whether the first bytes tell what an image is, and not before it is complete. */
  get isTold(): boolean {
    return this.facts.alwaysRecognised !== true && this.facts.unrecognised?.(this.options) !== true;
  }

  /** The image, as the named format; null probes, where that can find it. */
  open(filename = this.path(), format: string | null = this.driver.name): Promise<OpenedImage> {
    const known = this.facts.unrecognised?.(this.options) === true ? this.driver.name : format;
    return openImage(this.#node(filename), { drivers: drivers(), format: known, secrets: SECRETS });
  }

  /** What `size` becomes on disk. */
  rounded(size: number): number {
    return Math.ceil(size / this.facts.sizeUnit) * this.facts.sizeUnit;
  }

  /** A disk size of some allocation units and a bit, small enough to be read whole. */
  async diskSize(): Promise<number> {
    const probe = await this.create({ size: 65536, filename: this.path('size-probe') });
    const { granularity } = probe;
    await probe.abort();
    return this.rounded(Math.min(5 * 1024 * 1024, Math.max(256 * 1024, granularity * 24)) + this.facts.sizeUnit);
  }
}
