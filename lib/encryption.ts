import { parseOptions } from './core/options.ts';
import { luksOptions } from './sinks/encryption/luks-options.ts';
import { createGate } from './sources/gate.ts';
import { PipeInput } from './storage/pipe-input.ts';
import { SequentialStorage } from './storage/sequential.ts';
import { type ByteWork, Through } from './transforms/through.ts';

export interface EncryptOptions {
  /** Opens the container; text means its UTF-8 bytes. */
  passphrase: string | Uint8Array;
  /** What `-o` takes of format luks: `{ 'cipher-alg': 'aes-128', 'iter-time': '500' }`. */
  options?: Readonly<Record<string, string>>;
}

export interface DecryptOptions {
  /** Of any key slot of the container; text means its UTF-8 bytes. */
  passphrase: string | Uint8Array;
}

/** The one secret of a stream: its name is nobody else's business. */
const SECRET = 'passphrase';
const { 'key-secret': _, ...settings } = luksOptions;

/**
 * A transform from the bytes of a disk to those of a LUKS1 container that holds it, in one forward pass: what comes need
 * not say how much it will be. A disk has whole sectors of 512 bytes, so the last one is filled up with zeros. The stream
 * is of bytes, streamx, and works in Node's pipes; it fails with an ImageError. A container that was cut off still
 * opens, as a shorter disk: whoever sends one must tell that it is complete.
 */
export function encrypt({ passphrase, options = {} }: EncryptOptions): Through {
  const values = { ...parseOptions(settings, options), 'key-secret': SECRET };
  const secrets = new Map([[SECRET, passphrase]]);
  return new Through(async (input, output) => {
    const { createLuksStream } = await import('./sinks/luks/stream.ts');
    const storage = new ByteOutput(output);
    const target = await createLuksStream({ storage, size: null, options: values, secrets });
    try {
      let offset = 0;
      for await (const chunk of input) {
        await target.write(offset, chunk);
        offset += chunk.length;
      }
      await target.close();
    } catch (error) {
      await target.abort();
      throw error;
    }
  });
}

/**
 * A transform from the bytes of a LUKS container, version 1 or 2, to those of the disk in it. A wrong passphrase and a
 * damaged header are ImageErrors before any byte comes out.
 */
export function decrypt({ passphrase }: DecryptOptions): Through {
  const secrets = new Map([[SECRET, passphrase]]);
  return new Through(async (chunks, output) => {
    const { openLuksForward } = await import('./sources/luks/forward.ts');
    const disk = await openLuksForward({
      ...{ storage: new PipeInput('encrypted stream', chunks), options: { 'key-secret': SECRET }, secrets },
      ...{ writable: false, cache: 'writeback', gate: createGate({ implicit: 'refuse' }) },
    });
    try {
      for await (const batch of disk.batches()) {
        for (const { payload } of batch) if (payload !== null) await output(Buffer.from(payload));
        batch.release();
      }
    } finally {
      await disk.close();
    }
  });
}

/** What is written comes out of a stream. */
class ByteOutput extends SequentialStorage {
  readonly writable = true;
  readonly #output: Parameters<ByteWork>[1];

  constructor(output: Parameters<ByteWork>[1]) {
    super('encrypted stream');
    this.#output = output;
  }

  /** A copy goes out: the writer uses its memory again. */
  override async write(offset: number, buffer: Buffer): Promise<void> {
    if (offset !== this.passed) throw this.refuse('write', offset);
    this.passed += buffer.length;
    await this.#output(Buffer.from(buffer));
  }

  async close(): Promise<void> {}
}
