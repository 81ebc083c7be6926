/**
 * imgpipe as a library: open images, read their extents and bytes, make images, and compose what lies between as
 * streams of extent batches. Everything rejects with an ImageError.
 */
export { type ErrorContext, type ErrorKind, ImageError } from './core/errors.ts';
export { type Extent, ExtentBatch, type ExtentKind, extent, pushExtent, sliceExtent } from './core/extent.ts';
export { defineOptions, type OptionSchema, type OptionSpec, type OptionValues, parseOptions } from './core/options.ts';
export { isZero } from './core/pool.ts';
export {
  BATCH_BYTES,
  type BatchReadable,
  mapBatches,
  ParallelStage,
  type PipelineOptions,
  pipeline,
  readableFrom,
  type Stage,
} from './core/streams.ts';
export { enableTrace, setTraceWriter, type TracePoint, tracePoint } from './core/trace.ts';
export type { Secrets } from './crypto/secrets.ts';
export { type AmendOptions, amend } from './edits/amend.ts';
export { type BitmapAction, type BitmapOptions, bitmap } from './edits/bitmap.ts';
export { type CheckOptions, type CheckResult, check } from './edits/check.ts';
export { type ResizeOptions, resize } from './edits/resize.ts';
export { applySnapshot, createSnapshot, deleteSnapshot, type SnapshotOptions, snapshots } from './edits/snapshot.ts';
export { type DecryptOptions, decrypt, type EncryptOptions, encrypt } from './encryption.ts';
export { createImage } from './formats/create.ts';
export type {
  CheckReport,
  CheckRequest,
  CreateRequest,
  Driver,
  Measurement,
  MeasureRequest,
  OpenTargetRequest,
  StreamRequest,
} from './formats/driver.ts';
export { driverNamed, drivers, registerDriver } from './formats/index.ts';
export { openTarget } from './formats/open-target.ts';
export { type CreateOptions, create, extents, type Image, type OpenOptions, open } from './images.ts';
export { type BenchOptions, type BenchResult, bench } from './pipelines/bench.ts';
export { type CommitOptions, type CommitResult, commit } from './pipelines/commit.ts';
export {
  type CompareOptions,
  type CompareResult,
  compare,
  type Difference,
} from './pipelines/compare.ts';
export { type ConvertOptions, type ConvertResult, convert } from './pipelines/convert.ts';
export { type DdOptions, type DdResult, dd } from './pipelines/dd.ts';
export { type MapEntry, type MapOptions, map } from './pipelines/map.ts';
export { type MeasureOptions, type MeasureResult, measure } from './pipelines/measure.ts';
export { type RebaseOptions, type RebaseResult, rebase } from './pipelines/rebase.ts';
export type { ImageReference, NamedImage } from './pipelines/reference.ts';
export type { BitmapEditor, ClusterCompressor, Target } from './sinks/target.ts';
export { TargetWritable, type TargetWritableOptions, targetWritable } from './sinks/writable.ts';
export { type ExtentStreamOptions, extentStream, type Mapped, walkExtents } from './sources/extents.ts';
export type {
  BackingReference,
  BitmapInfo,
  BitmapReader,
  ForwardSource,
  LayerInfo,
  SnapshotInfo,
  SnapshotSelector,
  Source,
  SourceDriver,
  SourceRequest,
} from './sources/source.ts';
export { memoryStorage } from './storage/memory.ts';
export type { CacheMode, HostRange, LockRequest, Permission, Storage } from './storage/storage.ts';
export { type AlignOptions, align } from './transforms/align.ts';
export { type CompressOptions, compress, type UnitCompressor } from './transforms/compress.ts';
export { fillZeros } from './transforms/fill-zeros.ts';
export { type HashStage, hash } from './transforms/hash.ts';
export { type LoadOptions, load } from './transforms/load.ts';
export { type OrderOptions, order } from './transforms/order.ts';
export { type ExtentPair, pair } from './transforms/pair.ts';
export { type OnProgress, progress } from './transforms/progress.ts';
export { rate } from './transforms/rate.ts';
export { type SliceOptions, slice } from './transforms/slice.ts';
export { type SparseDetectOptions, sparseDetect } from './transforms/sparse-detect.ts';
