import { Qcow2Source } from '../../sources/qcow2/source.ts';
import type { TableProvider } from '../../sources/qcow2/tables.ts';
import type { Qcow2Image } from './image.ts';

/**
 * The layer that a target is writing, for reading: it looks into the target's own tables, since what has
 * been written is in the file only as data, and the entries follow with the next commit. Closing it closes the image's cipher.
 */
export function ownSource(image: Qcow2Image): Qcow2Source {
  const { storage, data, header, tail, geometry, cipher } = image;
  const tables = imageTables(image);
  const owned = cipher === null ? [] : [cipher];
  return new Qcow2Source({ storage, data, header, tail, geometry, tables, writable: true, cipher, owned });
}

function imageTables(image: Qcow2Image): TableProvider {
  return {
    get entries() {
      return image.activeL1.entries;
    },
    tableOffset: (l1Index) => image.activeL1.entry(l1Index).offset,
    peek: (offset) => image.tables.peek(offset)?.bytes,
    load: (offsets) => image.metadata.run(() => image.loadTables(offsets)),
  };
}
