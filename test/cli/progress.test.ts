import test from 'ava';
import { Output } from '../../lib/cli/output.ts';
import { Progress, type ProgressStyle } from '../../lib/cli/render/progress.ts';

class Recorder extends Output {
  out = '';
  err = '';
  override write(text: string): void {
    this.out += text;
  }
  override writeError(text: string): void {
    this.err += text;
  }
}

function record(style: ProgressStyle, use: (progress: Progress, at: (ms: number) => void) => void, toStderr = false) {
  const output = new Recorder('prog');
  let time = 0;
  const progress = new Progress(output, { style, toStderr, now: () => time });
  use(progress, (ms) => {
    time = ms;
  });
  return { out: output.out, err: output.err };
}

test('the plain style moves in steps of a percent and ends with a line', (t) => {
  const { out, err } = record('plain', (progress) => {
    progress.update(500, 10000);
    progress.update(510, 10000);
    progress.update(600, 10000);
    progress.complete();
    progress.end();
  });
  t.is(out, '    (0.00/100%)\r    (5.00/100%)\r    (6.00/100%)\r    (100.00/100%)\r\n');
  t.is(err, '');
});

test('without a style only a report is shown, on standard error', (t) => {
  const { out, err } = record('none', (progress) => {
    progress.update(1, 3);
    progress.report();
    progress.end();
  });
  t.is(out, '');
  t.is(err, '    (33.33/100%)\n');
});

test('progress goes to standard error where standard output carries the image', (t) => {
  const { out, err } = record('plain', (progress) => progress.end(), true);
  t.is(out, '');
  t.is(err, '    (0.00/100%)\r\n');
});

test('the bar tells rate and time left', (t) => {
  const { out } = record('bar', (progress, at) => {
    at(1000);
    progress.update(1024 * 1024, 4 * 1024 * 1024);
  });
  t.regex(out, /\r\[#{8} {22}\] {2}25\.0% {2}1 MiB\/s {2}00:03 left *$/);
});

test('the json style is one object a line on standard error', (t) => {
  const { out, err } = record('json', (progress, at) => {
    at(2000);
    progress.update(50, 200);
    progress.complete();
    progress.end();
  });
  t.is(out, '');
  const [start, half, end] = err
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  t.like(start, { percent: 0, done: 0 });
  t.like(half, { percent: 25, done: 50, total: 200, seconds: 2, bytesPerSecond: 25, secondsLeft: 6 });
  t.like(end, { percent: 100, done: 200, total: 200, secondsLeft: 0 });
});

test('an empty disk is complete at once', (t) => {
  const { out } = record('plain', (progress) => {
    progress.update(0, 0);
    progress.complete();
  });
  t.is(out, '    (0.00/100%)\r    (100.00/100%)\r');
});
