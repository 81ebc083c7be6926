import { conformance } from './suite.ts';

conformance.backing();
