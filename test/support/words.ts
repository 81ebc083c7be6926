/** Splits a command line as a shell does with single quotes, and nothing else of a shell's ways. */
export function words(line: string): string[] {
  const found: string[] = [];
  for (const [, quoted, plain] of line.matchAll(/(?:'([^']*)'|((?:[^\s']|'[^']*')+))(?:\s+|$)/g)) {
    found.push(quoted ?? plain.replaceAll("'", ''));
  }
  return found;
}

/** The non-empty lines of a text that are no comments (`#`). */
export function lines(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
}
