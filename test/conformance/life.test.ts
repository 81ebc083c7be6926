import { conformance } from './suite.ts';

conformance.life();
