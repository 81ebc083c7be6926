import { readFileSync } from 'node:fs';

/**
 * The bytes of an argument. Node decodes the command line as UTF-8, and what is none becomes U+FFFD; Linux still has the
 * bytes. Where it can't be asked, the text stands for itself.
 */
export function argumentBytes(text: string): Buffer {
  if (!text.includes('\ufffd')) return Buffer.from(text);
  for (const bytes of commandLine()) {
    const argument = bytes.toString();
    if (argument === text) return bytes;
    if (argument.startsWith('-') && argument.endsWith(`=${text}`)) return bytes.subarray(bytes.indexOf('=') + 1);
  }
  return Buffer.from(text);
}

function commandLine(): Buffer[] {
  try {
    const bytes = readFileSync('/proc/self/cmdline');
    const parts: Buffer[] = [];
    for (let from = 0; from < bytes.length; ) {
      const zero = bytes.indexOf(0, from);
      const end = zero < 0 ? bytes.length : zero;
      parts.push(bytes.subarray(from, end));
      from = end + 1;
    }
    return parts;
  } catch {
    return [];
  }
}
