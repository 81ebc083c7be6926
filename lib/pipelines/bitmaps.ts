import { ImageError } from '../core/errors.ts';
import type { Driver } from '../formats/driver.ts';
import type { OpenedImage } from '../sources/open.ts';
import { checkedDriver } from './checks.ts';

/**
 * `--bitmaps`: both formats must know persistent bitmaps, and the input must have none, as copying them is not
 * supported. An input that has some is refused by name rather than copied without them.
 */
export async function refuseBitmaps(
  image: OpenedImage,
  outputFormat: string,
  drivers: readonly Driver[] | undefined,
): Promise<void> {
  if (!checkedDriver(image.source.format, drivers).supportsBitmaps) {
    throw new ImageError('unsupported', 'Source lacks bitmap support');
  }
  if (!checkedDriver(outputFormat, drivers).supportsBitmaps) {
    throw new ImageError('unsupported', `Format driver '${outputFormat}' does not support bitmaps`);
  }
  const { formatSpecific } = await image.source.describe();
  const bitmaps = formatSpecific?.data.bitmaps;
  if (!Array.isArray(bitmaps) || bitmaps.length === 0) return;
  const names = bitmaps.map((each) => (typeof each === 'object' && !Array.isArray(each) ? `'${each.name}'` : ''));
  throw new ImageError(
    'unsupported',
    `Copying persistent bitmaps is not supported (the source has ${names.join(', ')})`,
    {
      file: image.filename,
      format: image.source.format,
    },
  );
}
