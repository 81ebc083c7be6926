/** Everything in a VMDK counts in sectors of this many bytes. */
export const SECTOR = 512;

/** `KDMV` in the file: a hosted sparse extent (Virtual Disk Format 5.0, "Hosted Sparse Extents"). */
export const SPARSE_MAGIC = 0x564d444b;
/** `COWD`: an ESX Server sparse extent ("ESX Server Sparse Extents"). */
export const COWD_MAGIC = 0x44574f43;

/** Where QEMU puts a descriptor inside a sparse extent, and the room that it gives it. */
export const DESCRIPTOR_SECTOR = 1;
export const DESCRIPTOR_SECTORS = 20;
/** A descriptor, alone or embedded, is text of a few hundred bytes; more than this is not looked at. */
export const MAX_DESCRIPTOR_BYTES = 1024 * 1024;

/** Grains as QEMU and VMware make them: 64 KiB, 512 of them under a grain table. */
export const GRAIN_SECTORS = 128;
export const GRAIN_BYTES = GRAIN_SECTORS * SECTOR;
export const TABLE_ENTRIES = 512;
export const ENTRY_BYTES = 4;

/** The two- in twoGbMaxExtent: guest bytes of an extent. */
export const SPLIT_BYTES = 2 * 1024 * 1024 * 1024;
/** Grain table entries are sector numbers of 32 bits: where a sparse extent's file ends at the latest. */
export const MAX_HOST_BYTES = 2 ** 32 * SECTOR;

/** Flags of a hosted sparse extent's header. */
export const SparseFlag = {
  newlineTest: 1 << 0,
  redundantTable: 1 << 1,
  zeroGrain: 1 << 2,
  compressed: 1 << 16,
  markers: 1 << 17,
} as const;

export const COMPRESSION_NONE = 0;
export const COMPRESSION_DEFLATE = 1;

/** A grain directory's place that says: look in the footer. */
export const DIRECTORY_AT_END = 2n ** 64n - 1n;

/** No parent: what `parentCID` then is. */
export const NO_CID = 0xffffffff;
