/** What a property of an object takes, as QAPI has it. */
export type Member =
  | { readonly type: 'string'; readonly required?: boolean }
  | { readonly type: 'bool'; readonly required?: boolean }
  | { readonly type: 'choice'; readonly choices: readonly string[]; readonly required?: boolean }
  | { readonly type: 'list'; readonly of: Members; readonly required?: boolean };

export type Members = Readonly<Record<string, Member>>;

const text: Member = { type: 'string' };
const bool: Member = { type: 'bool' };
const required: Member = { type: 'string', required: true };
const choice = (...choices: string[]): Member => ({ type: 'choice', choices });

const TLS: Members = {
  'verify-peer': bool,
  dir: text,
  endpoint: choice('client', 'server'),
  priority: text,
};
const policy = ['deny', 'allow'];

/** The types that `--object` makes here and their properties, in the order of QAPI's ObjectOptions. */
export const OBJECT_TYPES: Readonly<Record<string, Members>> = {
  'authz-list': {
    policy: choice(...policy),
    rules: {
      type: 'list',
      of: {
        match: required,
        policy: { type: 'choice', choices: policy, required: true },
        format: choice('exact', 'glob'),
      },
    },
  },
  'authz-simple': { identity: required },
  secret: { loaded: bool, format: choice('raw', 'base64'), keyid: text, iv: text, data: text, file: text },
  'tls-cipher-suites': TLS,
  'tls-creds-anon': { ...TLS, loaded: bool },
  'tls-creds-psk': { ...TLS, loaded: bool, username: text },
  'tls-creds-x509': { ...TLS, loaded: bool, 'sanity-check': bool, passwordid: text },
};

/** Properties that `TYPE,help` does not show: an old one that nobody can set. */
export const UNSETTABLE = 'loaded';

/** How `TYPE,help` names what a property takes. */
export const PROPERTY_TYPES: Readonly<Record<string, string>> = {
  endpoint: 'QCryptoTLSCredsEndpoint',
  format: 'QCryptoSecretFormat',
  policy: 'QAuthZListPolicy',
  rules: 'QAuthZListRule',
};

/** Types that QEMU knows, but that have no meaning here. */
export const FOREIGN_TYPES: ReadonlySet<string> = new Set(
  `authz-listfile authz-pam can-bus can-host-socketcan colo-compare cryptodev-backend
  cryptodev-backend-builtin cryptodev-vhost-user dbus-vmstate filter-buffer filter-dump filter-mirror filter-redirector
  filter-replay filter-rewriter input-barrier input-linux iothread main-loop memory-backend-epc memory-backend-file
  memory-backend-memfd memory-backend-ram pef-guest pr-manager-helper qtest rng-builtin rng-egd rng-random
  s390-pv-guest secret_keyring sev-guest thread-context throttle-group
  x-remote-object x-vfio-user-server`.split(/\s+/),
);
