import { parseArgs } from 'node:util';
import { UsageError } from './errors.ts';

/** One option of a command. At least one of `short` and `long` is there. */
export interface OptionDeclaration<V extends object> {
  /** One letter. */
  readonly short?: string;
  /** Without the dashes; may be abbreviated as long as it stays unambiguous. */
  readonly long?: string;
  /** How `--help` names the value; absent: a flag. */
  readonly value?: string;
  /** Stores (and checks) the value; called in the order of the command line. A flag gets ''. */
  apply(values: V, value: string): void;
}

export type OptionTable<V extends object> = readonly OptionDeclaration<V>[];

/** A flag: sets `key` to true. */
export function flag<V extends object>(
  key: keyof V & string,
  names: { short?: string; long?: string },
): OptionDeclaration<V> {
  return {
    ...names,
    apply(values) {
      (values as Record<string, unknown>)[key] = true;
    },
  };
}

/** An option that sets `key` to its value, as text or as `parse` understands it. */
export function setting<V extends object, K extends keyof V & string>(
  key: K,
  names: { short?: string; long?: string; value?: string },
  parse?: (text: string) => V[K],
): OptionDeclaration<V> {
  return {
    ...names,
    apply(values, text) {
      (values as Record<string, unknown>)[key] = parse === undefined ? text : parse(text);
    },
  };
}

export interface ParseSettings {
  /** Stop at the first argument that is no option: for the options before the command's name. */
  stopAtOperand?: boolean;
  /** What stands in argv[0]: the messages of a short option inside a cluster name the argument before it. */
  name: string;
  /**
   * Whose words a wrong option is told in: the tool's own (`unrecognized option '-x'`), or getopt's, under
   * which some commands print their help.
   */
  onWrong?: (message: string) => never;
}

interface Token {
  kind: string;
  name?: string;
  rawName?: string;
  value?: string;
  inlineValue?: boolean;
  index: number;
}

/**
 * Parses `args` by a table as getopt_long(3) does: clusters (`-cpO qcow2`), joined values (`-fqcow2`),
 * `--name=value` and `--name value`, unambiguous abbreviations, options after operands, and `--`.
 * Values may look like options. Each option's `apply` is called in order; the operands are returned.
 * Throws a UsageError.
 */
export function parseArguments<V extends object>(
  table: OptionTable<V>,
  args: readonly string[],
  values: V,
  settings: ParseSettings,
): string[] {
  const expanded = expandAbbreviations(table, args);
  const operands: string[] = [];
  const stop = settings.stopAtOperand === true || process.env.POSIXLY_CORRECT !== undefined;
  for (const token of tokenize(table, expanded)) {
    if (token.kind === 'option-terminator') continue;
    if (token.kind === 'positional') {
      if (stop) return expanded.slice(token.index);
      operands.push(expanded[token.index]);
      continue;
    }
    const option = findOption(table, token);
    // The arguments as they were typed: an abbreviation appears in messages as such.
    const failure = wrongness(table, option, token, args, settings);
    if (failure !== null) throw new UsageError(failure);
    option!.apply(values, token.value ?? '');
  }
  return operands;
}

/** Options that begin with `text`, exact matches alone. */
function candidates<V extends object>(table: OptionTable<V>, text: string): OptionDeclaration<V>[] {
  const exact = table.filter(({ long }) => long === text);
  return exact.length > 0 ? exact : table.filter(({ long }) => long?.startsWith(text));
}

/**
 * parseArgs knows no abbreviations. Whether a word is an option or the value of the one before it shows
 * only in the tokens, so each abbreviation found is spelled out and the line read again.
 */
function expandAbbreviations<V extends object>(table: OptionTable<V>, args: readonly string[]): string[] {
  const expanded = [...args];
  for (let from = 0; ; ) {
    const token = tokenize(table, expanded).find(
      (each) => each.index >= from && isLong(each) && findOption(table, each) === null,
    );
    if (token === undefined) return expanded;
    const found = candidates(table, token.name as string);
    if (found.length === 1) {
      const rest = expanded[token.index].slice((token.rawName as string).length);
      expanded[token.index] = `--${found[0].long}${rest}`;
    }
    from = token.index + 1;
  }
}

const LETTER_KEY = 'letter ';
/** Stands for a word that looks like an option and is none; nobody can type it. */
const MEMBER = '\0member';

function tokenize<V extends object>(table: OptionTable<V>, args: string[]): Token[] {
  const options: Record<string, { type: 'string' | 'boolean'; short?: string }> = Object.create(null);
  for (const { short, long, value } of table) {
    // parseArgs wants a long name for everything; a letter of its own gets one that nobody can type.
    const type = value === undefined ? 'boolean' : 'string';
    if (long !== undefined) options[long] = { type };
    if (short !== undefined) options[LETTER_KEY + short] = { type, short };
  }
  // `-#disk2.vmdk` is a member of the archive on standard input: no option is called `#`.
  const words = args.map((word) => (word.startsWith('-#') ? MEMBER : word));
  const parsed = parseArgs({ args: words, options, strict: false, allowPositionals: true, tokens: true });
  return (parsed.tokens as Token[]).map((token) =>
    token.value === MEMBER && token.kind === 'option' ? { ...token, value: args[token.index + 1] } : token,
  );
}

function isLong(token: Token): boolean {
  return token.kind === 'option' && (token.rawName as string).startsWith('--');
}

function findOption<V extends object>(table: OptionTable<V>, token: Token): OptionDeclaration<V> | null {
  const name = token.name as string;
  if (isLong(token)) return table.find(({ long }) => long === name) ?? null;
  const letter = name.startsWith(LETTER_KEY) ? name.slice(LETTER_KEY.length) : name;
  return table.find(({ short }) => short === letter) ?? null;
}

/** What is wrong with an option, in the words of `settings`; null if nothing is. */
function wrongness<V extends object>(
  table: OptionTable<V>,
  option: OptionDeclaration<V> | null,
  token: Token,
  args: readonly string[],
  { name, onWrong }: ParseSettings,
): string | null {
  const takesValue = option?.value !== undefined;
  const missing = takesValue && token.value === undefined;
  const unwanted = option !== null && !takesValue && token.value !== undefined;
  if (option !== null && !missing && !unwanted) return null;
  onWrong?.(getoptMessage(table, option, token, missing));
  const shown = isLong(token) || missing ? args[token.index] : letterShown(token, args, name);
  return missing ? `missing argument for option '${shown}'` : `unrecognized option '${shown}'`;
}

/** The oracle shows the word that getopt has just left: inside a cluster that is the one before. */
function letterShown(token: Token, args: readonly string[], name: string): string {
  const word = args[token.index];
  const letter = (token.rawName as string)[1];
  if (word.indexOf(letter, 1) === word.length - 1) return word;
  return token.index === 0 ? name : args[token.index - 1];
}

function getoptMessage<V extends object>(
  table: OptionTable<V>,
  option: OptionDeclaration<V> | null,
  token: Token,
  missing: boolean,
): string {
  if (!isLong(token)) {
    const letter = (token.rawName as string)[1];
    return missing ? `option requires an argument -- '${letter}'` : `invalid option -- '${letter}'`;
  }
  if (missing) return `option '--${option!.long}' requires an argument`;
  if (option !== null) return `option '--${option.long}' doesn't allow an argument`;
  const found = candidates(table, token.name as string).map(({ long }) => ` '--${long}'`);
  if (found.length > 1) return `option '${token.rawName}' is ambiguous; possibilities:${found.join('')}`;
  return `unrecognized option '${token.rawName}'`;
}
