import { randomBytes } from 'node:crypto';
import { Readable as NodeReadable, Writable as NodeWritable } from 'node:stream';
import { pipeline as nodePipeline } from 'node:stream/promises';
import test from 'ava';
import { type ByteWork, Through } from '../../lib/transforms/through.ts';

const copy: ByteWork = async (input, output) => {
  for await (const chunk of input) await output(Buffer.from(chunk));
};

/** What comes out of a stream that `chunks` are written to. */
async function through(work: ByteWork, chunks: Iterable<Buffer>): Promise<Buffer> {
  const found: Buffer[] = [];
  const sink = new NodeWritable({
    write(chunk, _encoding, callback) {
      found.push(chunk);
      callback();
    },
  });
  await nodePipeline(NodeReadable.from(chunks), new Through(work) as never, sink);
  return Buffer.concat(found);
}

test('bytes go through in order, however they are cut', async (t) => {
  const bytes = randomBytes(3_000_000);
  for (const size of [1000, 65_536, 1_000_003, 3_000_000]) {
    const chunks: Buffer[] = [];
    for (let at = 0; at < bytes.length; at += size) chunks.push(bytes.subarray(at, at + size));
    t.true((await through(copy, chunks)).equals(bytes));
  }
  t.is((await through(copy, [])).length, 0);
});

test('what comes out need not be what goes in', async (t) => {
  const work: ByteWork = async (input, output) => {
    await output(Buffer.from('head '));
    let count = 0;
    for await (const chunk of input) count += chunk.length;
    await output(Buffer.from(`${count} bytes`));
  };
  t.is((await through(work, [Buffer.alloc(10), Buffer.alloc(20)])).toString(), 'head 30 bytes');
});

test('work that has had enough lets the rest pass', async (t) => {
  const work: ByteWork = async (input, output) => {
    for await (const chunk of input) {
      await output(Buffer.from(chunk));
      return;
    }
  };
  const chunks = Array.from({ length: 100 }, () => Buffer.alloc(100_000, 1));
  t.is((await through(work, chunks)).length, 100_000);
});

test('a failure of the work is the failure of the pipeline', async (t) => {
  const work: ByteWork = async (input) => {
    for await (const _chunk of input) throw new Error('bad bytes');
  };
  await t.throwsAsync(through(work, [Buffer.alloc(10), Buffer.alloc(10)]), { message: 'bad bytes' });
});

test('a reader that is slow slows the writer down', async (t) => {
  let written = 0;
  const source = (function* () {
    for (; written < 200; written += 1) yield Buffer.alloc(100_000);
  })();
  const stream = new Through(copy);
  const ended = nodePipeline(
    NodeReadable.from(source),
    stream as never,
    new NodeWritable({ highWaterMark: 1, write: () => {} }),
  );
  await new Promise((resolve) => setTimeout(resolve, 200));
  // One chunk with the reader, one on each side, one at work, and what Node's own reader holds.
  t.true(written < 50, `${written} chunks were taken`);
  stream.destroy();
  await t.throwsAsync(ended);
});

test('a stream that is destroyed ends its work, wherever that waits', async (t) => {
  const ends: string[] = [];
  const watched: ByteWork = async (input, output) => {
    try {
      await copy(input, output);
    } catch (error) {
      ends.push((error as Error).message);
      throw error;
    }
  };
  for (const chunks of [0, 1, 5]) {
    const stream = new Through(watched);
    for (let count = 0; count < chunks; count += 1) stream.write(Buffer.alloc(200_000));
    stream.resume().pause();
    await new Promise((resolve) => setTimeout(resolve, 20));
    const closed = new Promise<void>((resolve) => stream.on('close', () => resolve()));
    stream.destroy();
    await closed;
  }
  t.is(ends.length, 3);
  t.true(ends.every((message) => message === 'The stream was destroyed'));
});

test('what is no bytes is refused', async (t) => {
  const stream = new Through(copy);
  const failed = new Promise<Error>((resolve) => stream.on('error', resolve));
  stream.write({ extents: [] });
  t.regex((await failed).message, /takes Buffers/);
});
