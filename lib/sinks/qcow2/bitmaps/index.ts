/** Persistent dirty bitmaps: docs/interop/qcow2.txt, "Bitmaps extension". */
export { Qcow2Bitmaps } from './directory.ts';
export { Qcow2BitmapEditor } from './editor.ts';
