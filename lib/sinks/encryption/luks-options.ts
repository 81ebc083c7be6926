import { defineOptions } from '../../core/options.ts';

/** The keys of `-o` for a new container; qcow2 has them with the prefix `encrypt.`. */
export const luksOptions = defineOptions({
  'cipher-alg': { type: 'string', help: 'Name of encryption cipher algorithm' },
  'cipher-mode': { type: 'string', help: 'Name of encryption cipher mode' },
  'hash-alg': { type: 'string', help: 'Name of encryption hash algorithm' },
  'iter-time': { type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
  'ivgen-alg': { type: 'string', help: 'Name of IV generator algorithm' },
  'ivgen-hash-alg': { type: 'string', help: 'Name of IV generator hash algorithm' },
  'key-secret': { type: 'string', help: 'ID of the secret that provides the keyslot passphrase' },
});

/** The keys of `amend -o`; qcow2 has them with the prefix `encrypt.`. */
export const luksAmendOptions = defineOptions({
  'iter-time': { type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
  keyslot: { type: 'number', help: 'Select a single keyslot to modify explicitly' },
  'new-secret': { type: 'string', help: 'New secret to set in the matching keyslots. Empty string to erase' },
  'old-secret': { type: 'string', help: 'Select all keyslots that match this password' },
  state: { type: 'string', help: 'Select new state of affected keyslots (active/inactive)' },
});
