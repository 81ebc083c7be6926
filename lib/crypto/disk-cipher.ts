import { type DiskCipher, type SectorCipherSpec, sectorCipher } from './sector-cipher.ts';

/** The cipher of `spec` for bulk work; errors as of `sectorCipher`. */
export function diskCipher(spec: SectorCipherSpec): DiskCipher {
  const { sectorSize, encrypt, decrypt } = sectorCipher(spec);
  return {
    sectorSize,
    encrypt: async (bytes, offset) => encrypt(bytes, offset),
    decrypt: async (bytes, offset) => decrypt(bytes, offset),
    close: async () => {},
  };
}
