import { parentPort, workerData } from 'node:worker_threads';
import { type Argon2Request, computeArgon2 } from '../argon2-compute.ts';

/** A thread that derives one key. */
computeArgon2(workerData as Argon2Request).then((key) => parentPort?.postMessage(key));
