declare const IMGPIPE_VERSION: string | undefined;

/** The package's version; only the bundle knows it. */
export function version(): string {
  return typeof IMGPIPE_VERSION === 'string' ? IMGPIPE_VERSION : 'from source';
}
