import { drivers } from '../formats/index.ts';
import { COMMANDS } from './commands/index.ts';
import { version } from './version.ts';

/** The text of `--help`: usage, the commands with their options, what the words in them mean, the formats. */
export async function helpText(program: string): Promise<string> {
  const names = Object.keys(COMMANDS);
  const commands = await Promise.all(names.map(async (name) => (await COMMANDS[name]()).command));
  const syntax = commands.map((command, index) => `  ${names[index]} ${command.syntax}\n`).join('');
  const formats = drivers()
    .map(({ name }) => name)
    .sort();
  return [
    `${program} version ${version()}\n`,
    `usage: ${program} [standard options] command [command options]\n`,
    'Reads, copies, makes and changes disk images\n\n',
    STANDARD_OPTIONS,
    `\nCommand syntax:\n${syntax}`,
    PARAMETERS,
    `\nSupported formats: ${formats.join(' ')}\n`,
  ].join('');
}

const STANDARD_OPTIONS = `\
    '-h', '--help'       print this text, also after a command
    '-V', '--version'    print the version
    '-T', '--trace'      [[enable=]<pattern>][,events=<file>][,file=<file>]
                         report what happens inside; '-T help' lists the events
`;

const PARAMETERS = `
Command parameters:
  'filename' names an image: a path, 'file:path', or 'json:{...}'; '-' is standard
    input or output in convert and dd
  'objectdef' defines a QEMU object, such as 'secret,id=sec0,file=passphrase.txt'
  'fmt' is the format of an image, found out if not given
  'cache' is how the output is written: 'none', 'writeback' (the default of all but
    convert), 'writethrough', 'directsync' or 'unsafe' (the default of convert)
  'src_cache' is how inputs are read, with the same values
  'size' is a number of bytes, or one with a suffix: 'k' or 'K' (1024), 'M' (1024k),
    'G' (1024M), 'T' (1024G), 'P' (1024T) or 'E' (1024P); 'b' changes nothing
  'output_filename' is the image to be written, 'output_fmt' its format
  'options' are settings of the new image, name=value with commas between;
    '-o help' lists those of a format
  'snapshot_param' chooses an internal snapshot:
    'snapshot.id=[ID],snapshot.name=[NAME]', or '[ID_OR_NAME]'
  'ofmt' is how results are printed: 'human' or 'json'
  'style' is how progress is shown: 'plain' (as with '-p' into a file), 'bar' (as with
    '-p' on a terminal), or 'json' (lines of JSON on standard error)
  '--image-opts' takes filenames as 'driver=qcow2,file.filename=disk.qcow2'
  '-U' opens images that another process writes to
  '-h' prints this text
  '-p' shows progress
  '-q' prints nothing but errors

Parameters of bitmap:
  'bitmap' is the name of a persistent dirty bitmap; what is done to it, in this order:
    '--add', '--remove', '--clear', '--enable', '--disable', '--merge source'
  '-g' is the granularity of what is added, in bytes
  '-b' names another image, where '--merge' finds its bitmaps, and '-F' its format

Parameters of amend:
  'options' are what to change of the image; '-o help' lists what can be changed
  '--force' does also what could make the data inaccessible

Parameters of check:
  '-r' repairs: 'leaks' what nothing refers to, 'all' also what is wrong
  the exit code is 0 for a clean image, 1 if the check could not be done, 2 for errors,
    3 for leaks only, 63 for a format that can't be checked

Parameters of commit:
  '-b' writes to this layer of the backing chain, and to none above it; the image
       keeps what it holds, as with '-d'
  '-r' limits the rate, in bytes a second

Parameters of create:
  '-b' names a backing file and '-F' its format
  '-u' does not open the backing file; 'size' must then be given

Parameters of bench:
  '-c' is how many requests are sent (75000), '-d' how many are in flight (64)
  '-s' is the size of each (4k), '-S' the distance between their starts
  '-o' is where the first one starts
  '-w' writes instead of reading, with '--pattern' as the byte (0)
  '--flush-interval' flushes after so many writes; '--no-drain' goes on meanwhile
  '-i threads' is the one kind of asynchronous I/O there is
  '--output=json' adds how long single requests took

Parameters of convert:
  '-c' compresses the output (qcow2, qcow, vmdk)
  '-n' writes into an image that exists
  '-S' is the shortest run of zeros that is left out of the output: bytes, 4k by
       default; 0 writes zeros as they are and allocates all of the output
  '-B' leaves out what is in this backing file already
  '-m' is how many requests are in flight (1 to 16, 8 by default)
  '-r' limits the rate, in bytes a second
  '-C' lets the kernel copy where it can
  '-W' writes in any order
  '--salvage' replaces what cannot be read by zeros
  '--target-is-zero' trusts that the existing output reads as zeros
  '--bitmaps' copies persistent bitmaps, with '--skip-broken-bitmaps' without
       those that are inconsistent

Parameters of compare:
  '-f' is the first image's format, '-F' the second's
  '-s' is strict: different sizes and different allocation are differences

Parameters of dd:
  'bs=BYTES' is the size of a block (512)
  'count=N' copies no more than N blocks
  'if=FILE' is read, 'of=FILE' is written
  'skip=N' leaves out the first N blocks of the input

Parameters of rebase:
  '-b' names the new backing file, '' none, and '-F' its format
  '-u' changes the name alone, whatever the disk then shows

Parameters of resize:
  'size' is the new size of the disk; with '+' or '-' before it, what is added or taken
  '--shrink' permits a disk that becomes shorter, and loses what lies behind its end
  '--preallocation' gives what is added its space at once: 'off', 'metadata', 'falloc'
       or 'full'

Parameters of snapshot:
  '-l' lists the internal snapshots of the image
  '-c' takes a snapshot of the disk as it is, under this name
  '-a' makes the disk what the snapshot with this ID or name is
  '-d' deletes the snapshot of this name
`;
