export { openQcow2Snapshots } from './editor.ts';
