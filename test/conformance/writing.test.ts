import { conformance } from './suite.ts';

conformance.writing();
