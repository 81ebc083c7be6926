import { appendFileSync, openSync, readFileSync } from 'node:fs';
import { fromSystemError } from '../core/errors.ts';
import { enableTrace, setTraceWriter, tracePointNames } from '../core/trace.ts';
import { COMMANDS } from './commands/index.ts';
import { CommandError, Done } from './errors.ts';
import { parseOptionList, switchedOn } from './option-lists.ts';
import type { Output } from './output.ts';

/**
 * `-T [[enable=]pattern][,events=file][,file=file]`: switches trace points on, by name or pattern, also from a file
 * with one a line, and sends what they say to a file. `-T help` lists them.
 */
export async function startTracing(specifications: readonly string[], output: Output): Promise<void> {
  // Points are declared where they are used: only what is loaded can be listed or told from a misspelling.
  await Promise.all(Object.values(COMMANDS).map((load) => load()));
  for (const text of specifications) trace(text, output);
}

function trace(text: string, output: Output): void {
  parseOptionList(text).forEach((element, index) => {
    const { key, value } = keyed(element, index === 0, output);
    if (key === 'enable') enable(value, output);
    else if (key === 'events') for (const pattern of eventsOf(value)) enable(pattern, output);
    else if (key === 'file') writeTo(value);
    else throw new CommandError(`Invalid parameter '${key}'`);
  });
}

function keyed({ key, value }: { key: string; value: string | null }, first: boolean, output: Output) {
  if (value !== null) return { key, value };
  return first ? { key: 'enable', value: key } : switchedOn(key, output);
}

function enable(pattern: string, output: Output): void {
  if (pattern === 'help' || pattern === '?') {
    output.write(`${tracePointNames().join('\n')}\n`);
    throw new Done();
  }
  const name = pattern.replace(/^-/, '');
  if (!name.includes('*') && !tracePointNames().includes(name)) {
    output.complain(`warning: trace event '${name}' does not exist`);
  }
  enableTrace(pattern);
}

function eventsOf(file: string): string[] {
  try {
    const lines = readFileSync(file, 'utf8').split('\n');
    return lines.map((line) => line.trim()).filter((line) => line !== '' && !line.startsWith('#'));
  } catch (error) {
    throw new CommandError(`${file}: ${fromSystemError(error).message}`);
  }
}

function writeTo(file: string): void {
  let descriptor: number;
  try {
    descriptor = openSync(file, 'w');
  } catch (error) {
    throw new CommandError(`${file}: ${fromSystemError(error).message}`);
  }
  setTraceWriter((line) => appendFileSync(descriptor, `${line}\n`));
}
