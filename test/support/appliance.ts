/** OVA appliances and other tar archives, made by tar(1). */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tool } from './tools.ts';

const tar = tool('tar');

export interface DescriptorFile {
  href: string;
  /** More attributes of the `File` element. */
  attributes?: string;
}

/** An OVF descriptor (DSP0243) that names these files as disks, in this order. */
export function ovfOf(files: readonly DescriptorFile[]): string {
  const references = files.map(
    ({ href, attributes = '' }, index) => `<File ovf:id="file${index}" ovf:href="${href}" ${attributes}/>`,
  );
  const disks = files.map(
    (_, index) => `<Disk ovf:diskId="disk${index}" ovf:capacity="1" ovf:fileRef="file${index}"/>`,
  );
  return `<?xml version="1.0" encoding="UTF-8"?>
<!-- What <Disk> means is said in section 9.1 -->
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References>${references.join('\n')}</References>
  <DiskSection><Info>Disks &amp; more</Info>${disks.join('\n')}<Disk ovf:diskId="empty" ovf:capacity="4"/></DiskSection>
</Envelope>
`;
}

/** Puts files of the directory into an archive there; `format` is tar's. */
export function makeTar(directory: string, archive: string, files: readonly string[], format = 'ustar'): string {
  const path = join(directory, archive);
  tar.expect([`--format=${format}`, '-cf', path, '--', ...files], { cwd: directory });
  return path;
}

/** An appliance of files that lie in the directory: the descriptor comes first. */
export function makeAppliance(directory: string, archive: string, files: readonly string[]): string {
  const descriptor = archive.replace(/\.ova$/, '.ovf');
  writeFileSync(join(directory, descriptor), ovfOf(files.map((href) => ({ href: encodeURI(href) }))));
  return makeTar(directory, archive, [descriptor, ...files]);
}
