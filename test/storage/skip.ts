import type { ExecutionContext } from 'ava';
import { systemCalls } from '../../lib/syscalls/calls.ts';

/** Whether the system calls are off or absent; logs the reason and passes the test then. */
export async function lacksSystemCalls(t: ExecutionContext): Promise<boolean> {
  if ((await systemCalls()) !== null) return false;
  t.log('skipped: no system calls here');
  t.pass();
  return true;
}
