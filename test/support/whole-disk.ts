import { type Image, type OpenOptions, open } from '../../lib/index.ts';

/** Everything that an image reads as. */
export async function wholeDisk(image: Parameters<typeof open>[0], options: OpenOptions = {}): Promise<Buffer> {
  const opened: Image = await open(image, options);
  try {
    const disk = Buffer.alloc(opened.size);
    await opened.read(0, disk);
    return disk;
  } finally {
    await opened.close();
  }
}
