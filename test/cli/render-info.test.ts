import test from 'ava';
import { infoToJson, renderInfo } from '../../lib/cli/render/info.ts';
import { renderSnapshots } from '../../lib/cli/render/snapshots.ts';
import type { ImageInfo } from '../../lib/pipelines/info.ts';
import type { SnapshotInfo } from '../../lib/sources/source.ts';

const PLAIN: ImageInfo = {
  filename: 'x',
  format: 'raw',
  virtualSize: 1536,
  actualSize: 4096,
  dirty: false,
  clusterSize: null,
  encrypted: false,
  compressed: false,
  backingFilename: null,
  fullBackingFilename: null,
  backingFormat: null,
  snapshots: [],
  formatSpecific: null,
};

const SNAPSHOT: SnapshotInfo = {
  id: '1',
  name: 'before',
  vmStateSize: 3 * 1024 * 1024,
  dateSeconds: 0,
  dateNanoseconds: 5,
  vmClockNanoseconds: 3_723_004_000_000n,
  icount: -1n,
  diskSize: 1536,
};

test('a plain image takes four lines', (t) => {
  t.is(renderInfo(PLAIN), 'image: x\nfile format: raw\nvirtual size: 1.5 KiB (1536 bytes)\ndisk size: 4 KiB\n');
});

test('a disk size that nobody knows is unavailable, and absent from JSON', (t) => {
  t.regex(renderInfo({ ...PLAIN, actualSize: null }), /^disk size: unavailable$/m);
  t.is((infoToJson({ ...PLAIN, actualSize: null }) as Record<string, unknown>)['actual-size'], undefined);
});

test('the actual path of a backing file is shown where it differs', (t) => {
  const backed = { ...PLAIN, backingFilename: 'b', fullBackingFilename: 'b', backingFormat: 'raw' };
  t.regex(renderInfo(backed), /^backing file: b\nbacking file format: raw$/m);
  t.regex(renderInfo({ ...backed, fullBackingFilename: 'd/b' }), /^backing file: b \(actual path: d\/b\)$/m);
  t.regex(renderInfo({ ...backed, fullBackingFilename: null }), /^backing file: b \(cannot determine actual path\)$/m);
});

test('format specific values nest by four spaces and lists are numbered', (t) => {
  const data = {
    'refcount-bits': 16,
    bitmaps: [
      { flags: ['auto'], name: 'b-0' },
      { flags: [], name: 'c' },
    ],
  };
  const text = renderInfo({ ...PLAIN, formatSpecific: { type: 'qcow2', data } });
  t.is(
    text.slice(text.indexOf('Format specific')),
    [
      'Format specific information:',
      '    bitmaps:',
      '        [0]:',
      '            flags:',
      '                [0]: auto',
      '            name: b-0',
      '        [1]:',
      '            flags:',
      '            name: c',
      '    refcount bits: 16\n',
    ].join('\n'),
  );
});

test('the snapshot table keeps its columns, counted in bytes', (t) => {
  const [header, short, long] = renderSnapshots([SNAPSHOT, { ...SNAPSHOT, name: 'ä'.repeat(10), icount: 7n }]);
  t.is(header, 'ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT');
  t.regex(short, /^1 {9}before {14}3 MiB \d{4}-\d\d-\d\d \d\d:\d\d:\d\d 01:02:03\.004 {11}$/);
  t.regex(long, /^1 {9}ä{10} {4}3 MiB .* {10}7$/);
});

test('a snapshot without instruction count has none in JSON', (t) => {
  const json = infoToJson({ ...PLAIN, snapshots: [SNAPSHOT] }) as { snapshots: Record<string, unknown>[] };
  t.like(json.snapshots[0], { 'vm-clock-sec': 3723n, 'vm-clock-nsec': 4_000_000n, 'date-nsec': 5, icount: undefined });
});
