/**
 * Names of a parent as paths of this machine: slashes instead of backslashes, nothing of Windows' drives and shares.
 * What is not absolute is relative to the directory of the child.
 */

/** The path in a parent locator's bytes; null where they hold none, or the platform is not known here. */
export function parentPath(platform: string, bytes: Buffer): string | null {
  if (platform === 'W2ru' || platform === 'W2ku') {
    return normalPath(bytes.toString('utf16le', 0, bytes.length & ~1).replaceAll('\\', '/'));
  }
  return platform === 'MacX' ? pathOfUrl(bytes.toString('utf8')) : null;
}

/** The path in the header's field "Parent Unicode Name", which is the parent's name on the machine of its creator. */
export function parentPathOfName(name: string): string | null {
  return normalPath(name.replaceAll('\\', '/'));
}

/** `file://localhost/a/b.vhd`, `file:///a/b.vhd`, and `file://./b.vhd` as XenServer writes it. */
function pathOfUrl(text: string): string | null {
  const match = /^file:\/\/(?:localhost(?=\/))?(.*)$/s.exec(text);
  if (match === null) return null;
  try {
    return normalPath(decodeURIComponent(match[1]));
  } catch {
    return null;
  }
}

function normalPath(text: string): string | null {
  const [path] = text.split('\0', 1);
  // Another machine's drive or share: the best guess is that the images are still side by side.
  const local = /^(?:[a-z]:|\/\/)/i.test(path) ? path.slice(path.lastIndexOf('/') + 1) : path;
  const bare = local.replace(/^(?:\.\/+)+/, '');
  if (bare === '' || bare.endsWith('/')) return null;
  // It is a file's name whatever it looks like: never `json:` or `nbd:`.
  return /^[^/]*:/.test(bare) ? `./${bare}` : bare;
}
