/**
 * Trace points. A room declares its own once, at module level, and calls it where it matters:
 *
 *     const traceOpen = tracePoint('qcow2_open');
 *     if (traceOpen.enabled) traceOpen.emit({ file, size });
 *
 * Nothing is formatted unless someone asked for that name, so a point may sit on a warm path.
 */
export interface TracePoint {
  readonly name: string;
  enabled: boolean;
  emit(fields: Record<string, string | number | boolean | null>): void;
}

type TraceWriter = (line: string) => void;

const points = new Map<string, TracePoint>();
const patterns: { matches: RegExp; enable: boolean }[] = [];
let write: TraceWriter = (line) => void process.stderr.write(`${line}\n`);

/** Declares a trace point; the same name gives the same point. */
export function tracePoint(name: string): TracePoint {
  const known = points.get(name);
  if (known !== undefined) return known;
  const point: TracePoint = {
    name,
    enabled: isEnabled(name),
    emit(fields) {
      let line = name;
      for (const key in fields) line += ` ${key}=${fields[key]}`;
      write(line);
    },
  };
  points.set(name, point);
  return point;
}

/** Switches points on (or off, with a leading `-`) by name or pattern with `*`; later rules win. */
export function enableTrace(pattern: string): void {
  const enable = !pattern.startsWith('-');
  const glob = enable ? pattern : pattern.slice(1);
  const source = glob.replace(/[.+?^${}()|[\]\\]/g, '\\$&').replaceAll('*', '.*');
  patterns.push({ matches: new RegExp(`^${source}$`), enable });
  for (const point of points.values()) point.enabled = isEnabled(point.name);
}

/** Sends trace lines elsewhere than standard error. */
export function setTraceWriter(writer: TraceWriter): void {
  write = writer;
}

/** The names of all points of the modules loaded so far. */
export function tracePointNames(): string[] {
  return [...points.keys()].sort();
}

function isEnabled(name: string): boolean {
  let enabled = false;
  for (const rule of patterns) if (rule.matches.test(name)) enabled = rule.enable;
  return enabled;
}
