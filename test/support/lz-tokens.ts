/** Literals, and then a match: `length` bytes from `distance` back (length 0: none). */
export interface Token {
  literals: Buffer;
  length: number;
  distance: number;
}

export interface TokenLimits {
  minMatch: number;
  maxMatch: number;
  maxDistance: number;
  maxLiterals: number;
}

/** Takes bytes apart greedily, by the last place where the same four bytes stood. */
export function tokensOf(bytes: Buffer, limits: TokenLimits): Token[] {
  const { minMatch, maxMatch, maxDistance, maxLiterals } = limits;
  const places = new Map<number, number>();
  const tokens: Token[] = [];
  let from = 0;
  let at = 0;
  const put = (length: number, distance: number) => {
    let rest = bytes.subarray(from, at);
    for (; rest.length > maxLiterals; rest = rest.subarray(maxLiterals)) {
      tokens.push({ literals: rest.subarray(0, maxLiterals), length: 0, distance: 0 });
    }
    tokens.push({ literals: rest, length, distance });
    at += length;
    from = at;
  };
  while (at < bytes.length) {
    const key = at + 4 <= bytes.length ? bytes.readUInt32LE(at) : -1;
    const place = key < 0 ? undefined : places.get(key);
    if (key >= 0) places.set(key, at);
    const length = place === undefined || at - place > maxDistance ? 0 : matchLength(bytes, place, at, maxMatch);
    if (length >= minMatch) put(length, at - (place as number));
    else at += 1;
  }
  if (at > from) put(0, 0);
  return tokens;
}

function matchLength(bytes: Buffer, place: number, at: number, most: number): number {
  let length = 0;
  while (length < most && at + length < bytes.length && bytes[place + length] === bytes[at + length]) length += 1;
  return length;
}
