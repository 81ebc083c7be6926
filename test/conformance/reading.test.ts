import { conformance } from './suite.ts';

conformance.reading();
