import { mkdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { drivers } from '../../lib/formats/index.ts';
import { openTarget } from '../../lib/formats/open-target.ts';
import { type OpenedImage, openImage } from '../../lib/sources/open.ts';
import { fileProtocol } from '../../lib/storage/file-protocol.ts';
import { registerProtocol } from '../../lib/storage/index.ts';
import { withTmpDir } from '../support/tmp.ts';
import { type Tool, tool } from '../support/tools.ts';
import { makeVhdx, WRITE_GUID } from '../support/vhdx.ts';
import { makeVhd, utf16 } from '../support/vpc-images.ts';

const qemuImg = tool('qemu-img');
const SIZE = 1024 * 1024;

/** Every file that the library opens in this process. */
let opened: string[] = [];
registerProtocol({
  ...fileProtocol,
  open(spec, options) {
    opened.push(String(spec.filename));
    return fileProtocol.open(spec, options);
  },
});

/** Makes `path`, an image that names `reference`. */
interface Maker {
  tools: readonly Tool[];
  make(path: string, reference: string): void;
}

const byQemu = (format: string): Maker => ({
  tools: [qemuImg],
  make: (path, reference) =>
    void qemuImg.expect(['create', '-q', '-u', '-f', format, '-b', reference, '-F', 'raw', path, '1M']),
});

const MAKERS: Readonly<Record<string, Maker>> = {
  qcow2: byQemu('qcow2'),
  qcow: byQemu('qcow'),
  qed: byQemu('qed'),
  'vmdk extent': { tools: [], make: (path, reference) => writeFileSync(path, vmdkDescriptor(`"${reference}"`)) },
  'vmdk parent': {
    tools: [],
    make(path, reference) {
      writeFileSync(path.replace(/[^/]*$/, 'own-flat.vmdk'), Buffer.alloc(SIZE));
      writeFileSync(path, vmdkDescriptor('"own-flat.vmdk"', `parentCID=12345678\nparentFileNameHint="${reference}"`));
    },
  },
  vhdx: {
    tools: [],
    make: (path, reference) =>
      writeFileSync(
        path,
        makeVhdx({ size: SIZE, parent: { linkage: WRITE_GUID, paths: { relative_path: reference } } }),
      ),
  },
  vpc: {
    tools: [],
    make(path, reference) {
      const locators: [string, Buffer][] = [['W2ru', utf16(reference)]];
      const parent = { uniqueId: Buffer.alloc(16, 1), name: reference, locators };
      writeFileSync(path, makeVhd({ disk: Buffer.alloc(SIZE), present: () => false, parent }));
    },
  },
};

function vmdkDescriptor(extent: string, parent = 'parentCID=ffffffff'): string {
  return `# Disk DescriptorFile
version=1
CID=fffffffe
${parent}
createType="monolithicFlat"
RW ${SIZE / 512} FLAT ${extent} 0
ddb.adapterType = "ide"
`;
}

/** What nobody wants an image to lead to. `victim` is a file outside of the image's directory. */
const references = (victim: string): string[] => [
  victim,
  `../${basename(victim)}`,
  `..\\${basename(victim)}`,
  `file:${victim}`,
  `json:{"driver":"file","filename":"${victim}"}`,
  `json:{'driver':'raw','file':{'driver':'file','filename':'${victim}'}}`,
  '/dev/zero',
  'nbd:unix:/tmp/socket',
  'child',
];

const attempts: Readonly<Record<string, (path: string, implicit: Policy) => Promise<void>>> = {
  async read(path, implicit) {
    const image: OpenedImage = await openImage(path, { drivers: drivers(), implicit });
    await image.chain.read(0, Buffer.alloc(4096)).finally(() => image.close());
  },
  async describe(path, implicit) {
    const image = await openImage(path, { drivers: drivers(), implicit, backing: false, metadataOnly: true });
    await image.source.describe().finally(() => image.close());
  },
  async write(path, implicit) {
    const target = await openTarget(path, { implicit });
    await target.write(0, Buffer.alloc(512, 1)).finally(() => target.abort());
  },
};

type Policy = 'refuse' | ((reference: string) => boolean);

for (const [name, { tools, make }] of Object.entries(MAKERS)) {
  test.serial(`${name}: what an image names is opened only where the gate lets it`, async (t) => {
    if (tools.some((each) => each.missing(t))) return;
    await withTmpDir(async (outer) => {
      const directory = join(outer, 'inner');
      mkdirSync(directory);
      const victim = join(outer, 'victim');
      writeFileSync(victim, Buffer.alloc(SIZE, 7));
      const path = join(directory, 'child');
      let reached = 0;
      for (const reference of references(victim)) {
        try {
          make(path, reference);
        } catch {
          continue; // Not every name can be put into every format.
        }
        for (const [what, attempt] of Object.entries(attempts)) {
          const about = `${what} with ${reference}`;
          // Its own extent, beside it, is the one file that a parent's child needs.
          const own = (asked: string) => asked === 'own-flat.vmdk';
          for (const policy of ['refuse', own] as const) {
            opened = [];
            const error = await attempt(path, policy).then(
              () => null,
              (reason) => reason,
            );
            if (error !== null) t.true(error instanceof ImageError, `${about}: ${error.stack}`);
            if (what !== 'describe') t.not(error, null, about);
            const foreign = opened.filter((each) => each !== path && !each.endsWith('/own-flat.vmdk'));
            t.deepEqual(foreign, [], about);
          }
          const asked: string[] = [];
          opened = [];
          await attempt(path, (each) => {
            asked.push(each);
            return true;
          }).catch((error) => t.true(error instanceof ImageError, `${about}: ${error.stack}`));
          const foreign = opened.filter((each) => each !== path);
          if (foreign.length > 0) t.true(asked.length > 0, about);
          reached += foreign.length;
        }
      }
      t.true(reached > 0, 'with the gate open, something else is opened');
    });
  });
}
