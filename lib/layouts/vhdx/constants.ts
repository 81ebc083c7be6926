/**
 * Numbers of the VHDX format: [MS-VHDX], Virtual Hard Disk v2 (VHDX) File Format. All integers are little-endian.
 */

const KIB = 1024;
export const MIB = 1024 * KIB;
const TIB = MIB * MIB;

/** Section 2.2: what lies where in the first mebibyte. */
export const FILE_IDENTIFIER_AT = 0;
export const HEADERS_AT = [64 * KIB, 128 * KIB] as const;
export const REGION_TABLES_AT = [192 * KIB, 256 * KIB] as const;
/** Neither the file identifier nor the headers change through the log. */
export const LOGGED_FROM = 192 * KIB;
/** Regions, the log and blocks lie behind the header section. */
export const HEADER_SECTION = MIB;

/** The first eight bytes of the file. */
export const FILE_SIGNATURE = Buffer.from('vhdxfile');
export const CREATOR_AT = 8;
export const CREATOR_LENGTH = 512;

export const HEADER_LENGTH = 4 * KIB;
export const FORMAT_VERSION = 1;
export const LOG_VERSION = 0;

export const REGION_TABLE_LENGTH = 64 * KIB;
export const MAX_REGIONS = 2047;

export const METADATA_TABLE_LENGTH = 64 * KIB;
export const MAX_METADATA_ITEMS = 2047;
/** Section 2.6.1.2: no item is longer. */
export const MAX_ITEM_LENGTH = MIB;

/** The log is written, and replayed, in sectors of this size. */
export const LOG_SECTOR = 4 * KIB;

/** Section 2.6.2. */
export const MAX_DISK_SIZE = 64 * TIB;
export const MIN_BLOCK_SIZE = MIB;
export const MAX_BLOCK_SIZE = 256 * MIB;
export const SECTOR_SIZES: readonly number[] = [512, 4096];

/** Regions, blocks, log: all lie at multiples of this, and file sizes in the log are. */
export const ALIGNMENT = MIB;
/** Section 2.4: bits, and so sectors, of a sector bitmap block. */
export const BITMAP_BITS = 2 ** 23;
export const BITMAP_LENGTH = MIB;
/** No file is longer: twice the largest disk leaves room for all that is not payload. */
export const MAX_FILE_SIZE = 128 * TIB;

/** GUIDs as text. */
export const RegionId = {
  bat: '2dc27766-f623-4200-9d64-115e9bfd4a08',
  metadata: '8b7ca206-4790-4b9a-b8fe-575f050f886e',
} as const;

export const ItemId = {
  fileParameters: 'caa16737-fa36-4d43-b3b6-33f0aa44e76b',
  diskSize: '2fa54224-cd1b-4876-b211-5dbed83bf4b8',
  diskId: 'beca12ab-b2e6-4523-93ef-c309e000c746',
  logicalSectorSize: '8141bf1d-a96f-4709-ba47-f233a8faab5f',
  physicalSectorSize: 'cda348c7-445d-4471-9cc9-e9885251c556',
  parentLocator: 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c',
} as const;

/** The one type of parent locator there is: the parent is a VHDX file too. */
export const VHDX_PARENT_LOCATOR = 'b04aefb7-d19e-4a81-b789-25b8e9445913';
