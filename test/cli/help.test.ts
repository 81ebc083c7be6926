import test from 'ava';
import { COMMANDS } from '../../lib/cli/commands/index.ts';
import { helpText } from '../../lib/cli/help.ts';
import { drivers } from '../../lib/formats/index.ts';

test('the help names every command with its options, and every format', async (t) => {
  const text = await helpText('prog');
  t.regex(text, /^usage: prog \[standard options\] command \[command options\]$/m);
  for (const [name, load] of Object.entries(COMMANDS)) {
    const { command } = await load();
    t.true(text.includes(`\n  ${name} ${command.syntax}\n`), name);
  }
  const formats = /^Supported formats: (.*)$/m.exec(text)?.[1].split(' ');
  t.deepEqual(
    formats,
    drivers()
      .map(({ name }) => name)
      .sort(),
  );
});

test('no line of the help is wider than a terminal, but for the syntax of commands', async (t) => {
  const text = await helpText('prog');
  for (const line of text.split('\n')) {
    if (!/^ {2}\w+ [[(]/.test(line) && !line.startsWith('Supported')) t.true(line.length <= 90, line);
  }
});
