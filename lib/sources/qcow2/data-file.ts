import { ImageError } from '../../core/errors.ts';
import { decodeDataFileName, Incompatible } from '../../layouts/qcow2/index.ts';
import type { ProtocolSpec } from '../../storage/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { parseFilename } from '../filename.ts';
import { openBeside } from '../gate.ts';
import type { SourceRequest } from '../source.ts';
import type { Qcow2Head } from './head.ts';

/**
 * Opens where guest data lie: `storage` itself, or the external data file that the header's extension or the
 * runtime option `data-file` names. What the header names goes through the gate; what the user names doesn't.
 */
export async function openData(request: SourceRequest, { header, tail }: Qcow2Head): Promise<Storage> {
  const external = (header.incompatible & Incompatible.dataFile) !== 0n;
  const given = request.options['data-file'];
  const { writable } = request;
  if (!external) {
    if (given !== undefined) {
      throw new ImageError('invalid', "'data-file' can only be set for images with an external data file");
    }
    return request.storage;
  }
  const { gate, storage, cache, sharing } = request;
  if (given !== undefined) {
    return openBeside(storage, dataFileSpec(given), { writable, cache, sharing, role: 'data' });
  }
  const name = decodeDataFileName(tail.extensions);
  if (name === null || name === '') throw new ImageError('invalid', "'data-file' is required for this image");
  return gate.openStorage(name, storage, { writable, role: 'data' });
}

function dataFileSpec(given: unknown): ProtocolSpec {
  if (typeof given !== 'object' || given === null) {
    const name = String(given);
    throw new ImageError('invalid', `Cannot find device='${name}' nor node-name='${name}'`);
  }
  const { driver, filename, ...rest } = given as Record<string, unknown>;
  if (driver === undefined && typeof filename === 'string') return { ...rest, ...parseFilename(filename).file };
  if (filename !== undefined && typeof filename !== 'string') {
    throw new ImageError('invalid', `Invalid parameter type for 'data-file.filename', expected: string`);
  }
  return { ...rest, filename, driver: typeof driver === 'string' ? driver : 'file' };
}
