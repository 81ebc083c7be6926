import { alignUp } from '../../core/binary.ts';
import { ensure } from '../../core/errors.ts';
import type { ExtentBatch } from '../../core/extent.ts';
import { BufferPool } from '../../core/pool.ts';
import { tracePoint } from '../../core/trace.ts';
import type { DiskCipher } from '../../crypto/sector-cipher.ts';
import { decodeLuksHeader, hasLuksMagic, keyMaterialBytes, LUKS_HEADER_AREA } from '../../layouts/luks.ts';
import { decodeLuks2Binary } from '../../layouts/luks2.ts';
import { materialBytes } from '../../layouts/luks2-metadata.ts';
import { memoryStorage } from '../../storage/memory.ts';
import { MAX_HEAD, type PipeInput } from '../../storage/pipe-input.ts';
import { readLuks2Header } from '../encryption/luks2.ts';
import { dataBatch, ForwardImpossible, forwardInput } from '../forward.ts';
import type { ForwardSource, SourceRequest } from '../source.ts';
import { stoppable } from '../stoppable.ts';
import { type LuksContainer, openLuksContainer } from './container.ts';

/** Bytes that are decrypted at once, and how many such pieces are at work. */
const PIECE_BYTES = 1024 * 1024;
const PIECES = 4;

const traceForward = tracePoint('luks_forward');

/**
 * Opens a container that comes through a pipe: header and key slots are at its head, and the disk behind them. Nothing has been
 * consumed when a wrong passphrase shows.
 */
export async function openLuksForward(request: SourceRequest): Promise<ForwardSource> {
  const input = forwardInput(request.storage);
  const head = memoryStorage(input.name, await peekHead(input));
  const { cipher, ...container } = await openLuksContainer(
    { ...request, storage: head, metadataOnly: false },
    Number.POSITIVE_INFINITY,
  );
  ensure(cipher !== null, 'The container was not unlocked', { file: input.name, format: 'luks' });
  if (traceForward.enabled) traceForward.emit({ file: input.name, payloadOffset: container.payloadOffset });
  return new LuksForward(input, { ...container, cipher });
}

/** Header and key material, of which more is looked at as it shows how far they reach. */
async function peekHead(input: PipeInput): Promise<Buffer> {
  const head = await input.peek(LUKS_HEADER_AREA);
  if (head.length < LUKS_HEADER_AREA) return head;
  const end = hasLuksMagic(head, 2) ? await materialEnd2(input, head) : materialEnd1(head);
  if (end > MAX_HEAD) throw new ForwardImpossible('its key slots lie too far behind its start');
  return input.peek(end);
}

function materialEnd1(head: Buffer): number {
  const header = decodeLuksHeader(head);
  const ends = header.slots.map((slot) => (slot.active ? slot.keyOffset + keyMaterialBytes(header, slot) : 0));
  return Math.max(LUKS_HEADER_AREA, ...ends);
}

async function materialEnd2(input: PipeInput, head: Buffer): Promise<number> {
  const bytes = 2 * headerBytesOf(head);
  const headers = memoryStorage(input.name, await input.peek(bytes));
  const { keySlots } = await readLuks2Header(headers, Number.POSITIVE_INFINITY);
  return Math.max(bytes, ...keySlots.map((slot) => slot.area.offset + materialBytes(slot)));
}

function headerBytesOf(head: Buffer): number {
  try {
    return decodeLuks2Binary(head, 0).headerBytes;
  } catch {
    throw new ForwardImpossible('its second header must be looked for');
  }
}

class LuksForward implements ForwardSource {
  readonly format = 'luks';
  readonly name: string;
  size: number | null;
  readonly #input: PipeInput;
  readonly #container: LuksContainer & { cipher: DiskCipher };
  readonly #pool = new BufferPool(PIECE_BYTES, PIECES);

  constructor(input: PipeInput, container: LuksContainer & { cipher: DiskCipher }) {
    this.name = input.name;
    this.size = container.payloadSize;
    this.#input = input;
    this.#container = container;
  }

  batches(): AsyncIterableIterator<ExtentBatch> {
    return stoppable(this.#batches(), this.#input);
  }

  async close(): Promise<void> {
    await this.#input.close();
    await this.#container.cipher.close();
  }

  async *#batches(): AsyncGenerator<ExtentBatch, void, void> {
    const atWork: Promise<ExtentBatch>[] = [];
    try {
      await this.#input.skipTo(this.#container.payloadOffset);
      for (let offset = 0, ended = false; !ended; ) {
        const limit = Math.min(PIECE_BYTES, (this.size ?? Number.POSITIVE_INFINITY) - offset);
        const buffer = this.#pool.take();
        const count = await this.#input.readNext(buffer.subarray(0, limit));
        ended = count < PIECE_BYTES;
        if (count > 0) atWork.push(this.#decrypt(buffer, offset, count));
        offset += count;
        if (ended) await this.#checkEnd(offset);
        while (atWork.length > (ended ? 0 : PIECES - 1)) yield await (atWork.shift() as Promise<ExtentBatch>);
      }
    } finally {
      await Promise.allSettled(atWork);
    }
  }

  /** A disk has whole sectors: as with a file, the last one is filled up with zeros. */
  async #decrypt(buffer: Buffer, offset: number, count: number): Promise<ExtentBatch> {
    const { cipher, sectorSize } = this.#container;
    const sectors = buffer.subarray(0, alignUp(count, sectorSize));
    sectors.fill(0, count);
    await cipher.decrypt(sectors, offset);
    return dataBatch(offset, sectors, () => this.#pool.give(buffer));
  }

  /** Reads on to the pipe's end, of which a disk of fixed size may leave something: its writer is not to be cut short. */
  async #checkEnd(end: number): Promise<void> {
    const { payloadSize, sectorSize } = this.#container;
    const context = { file: this.name, format: this.format, operation: 'read', offset: end };
    ensure(payloadSize === null || end === payloadSize, 'The input ends before the encrypted disk does', context);
    await this.#input.drain();
    this.size = alignUp(end, sectorSize);
  }
}
