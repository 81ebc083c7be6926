export { ChunkCollector, type ChunkTable, ChunkType, chunkAt, isMish, isZeroType } from './chunks.ts';
export { blockTablesOf } from './plist.ts';
export { resourcesOf } from './resources.ts';
export {
  type DmgTrailer,
  decodeTrailer,
  type FileRange,
  findTrailer,
  TRAILER_BYTES,
  trailerWindow,
} from './trailer.ts';
