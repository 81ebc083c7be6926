import { ImageError } from '../../core/errors.ts';
import {
  applySnapshot,
  createSnapshot,
  deleteSnapshot,
  SNAPSHOT_OPERATION,
  type SnapshotOptions,
  snapshots,
} from '../../edits/snapshot.ts';
import { flag, type OptionDeclaration, type OptionTable, parseArguments } from '../arguments.ts';
import { HELP_OPTION, type ImageValues, imageDefaults, imageNamed, objectOption } from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { CommandError, UsageError } from '../errors.ts';
import type { Output } from '../output.ts';
import { warnOfProbedRaw } from '../probing.ts';
import { renderSnapshots } from '../render/snapshots.ts';

type Action = 'list' | 'apply' | 'create' | 'delete';

interface SnapshotValues extends ImageValues {
  action: Action | null;
  /** Of the snapshot to apply, create or delete. */
  name: string;
  quiet: boolean;
}

async function run(args: readonly string[], { output }: CommandContext): Promise<number> {
  const values: SnapshotValues = {
    ...imageDefaults(),
    action: null,
    name: '',
    quiet: false,
  };
  const names = parseArguments(optionTable(output), args, values, { name: 'snapshot' });
  if (names.length !== 1) throw new UsageError('Expecting one image file name');
  const secrets = await values.objects.load();
  const { action, name, forceShare } = values;
  if (forceShare && action !== null && action !== 'list') {
    const why = 'force-share=on can only be used with read-only images';
    throw new CommandError(`Could not open '${names[0]}': ${why}`);
  }
  const image = imageNamed(names[0], null, values);
  if (action !== 'list') await warnOfProbedRaw(image, output);
  const options: SnapshotOptions = { image: 'file' in image ? image : image.filename, secrets };
  if (action === null || action === 'list') {
    const found = await snapshots({ ...options, forceShare });
    if (action === 'list' && found.length > 0) {
      output.write(`${['Snapshot list:', ...renderSnapshots(found)].join('\n')}\n`);
    }
    return 0;
  }
  const change = { create: createSnapshot, apply: applySnapshot, delete: deleteSnapshot }[action];
  await change(name, options).catch((error) => {
    throw failure(error, action, name);
  });
  return 0;
}

/** Errors of opening the image are told as they are. */
function failure(error: unknown, action: Action, name: string): unknown {
  if (!(error instanceof ImageError) || error.operation !== SNAPSHOT_OPERATION) return error;
  return new CommandError(`Could not ${action} snapshot '${name}': ${reason(error, action)}`);
}

function reason({ kind, code, message }: ImageError, action: Action): string {
  if (action === 'create' && code === 'ENOTSUP') return '-95 (Operation not supported)';
  if (action !== 'apply') return message;
  if (kind === 'missing') return 'Failed to load snapshot: No such file or directory';
  return message;
}

function optionTable(output: Output): OptionTable<SnapshotValues> {
  return [
    HELP_OPTION,
    objectOption(output),
    flag('imageOpts', { long: 'image-opts' }),
    flag('forceShare', { short: 'U', long: 'force-share' }),
    flag('quiet', { short: 'q' }),
    action('list', { short: 'l' }),
    action('apply', { short: 'a', value: 'snapshot' }),
    action('create', { short: 'c', value: 'snapshot' }),
    action('delete', { short: 'd', value: 'snapshot' }),
  ];
}

/** An option that says what to do; only one may. */
function action(name: Action, names: { short: string; value?: string }): OptionDeclaration<SnapshotValues> {
  return {
    ...names,
    apply(values, value) {
      if (values.action !== null) throw new UsageError("Cannot mix '-l', '-a', '-c', '-d'");
      values.action = name;
      values.name = value;
    },
  };
}

export const command: Command = {
  syntax: '[--object objectdef] [--image-opts] [-U] [-q] [-l | -a snapshot | -c snapshot | -d snapshot] filename',
  stoppable: false,
  run,
};
