import { parentPort, workerData } from 'node:worker_threads';
import { sectorCipher } from '../sector-cipher.ts';
import type { ThreadData, ThreadJob } from './messages.ts';

/** A thread of `CipherThreads`: does one job after the other in the memory that it shares. */
const { spec, memory, slotBytes } = workerData as ThreadData;
const cipher = sectorCipher(spec);

parentPort?.on('message', ({ slot, direction, length, offset }: ThreadJob) => {
  cipher[direction](Buffer.from(memory, slot * slotBytes, length), offset);
  parentPort?.postMessage(slot);
});
