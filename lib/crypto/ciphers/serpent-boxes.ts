/** The S-boxes of Serpent (its paper's appendix A.5): what each of 16 values becomes. */
export const SERPENT_BOXES: readonly string[] = [
  '38f1a65bed42709c',
  'fc27905a1be86d34',
  '86793cafd1e40b52',
  '0fb8c963d124a75e',
  '1f83c0b6254a9e7d',
  'f52b4a9c03e8d671',
  '72c5846be91fd3a0',
  '1df0e82b74ca9356',
];

/**
 * The S-boxes as circuits: found by a search of our own, and proved against the tables by a test. `a` to `d` are the
 * input's bits, the lowest first; each operation makes the next letter: `~` not, `&` and, `|` or, `^` exclusive or, `-`
 * and not. Behind the colon are the output's bits.
 */
export const SERPENT_CIRCUITS: readonly string[] = [
  'a^c d^b a^f c^d a-e i^b h|a j^k g|c m&j n^d o^e j-h ~p q^r s^e g-b t^u: svol',
  'd^b a^e a&b ~e g^c h^i h-c i-d l^a m-f n|k f-i o^b p^q o^i f-d s^t: rujo',
  'd-a e|a f^b c-a d^b h^i c^e k-g j^a l^m n&g o^k ~p n^g q^r: jpns',
  'a&c c^b b-d a^f f|e i^d g|a j^k h|c j-g m-n l-b m&j p^q g^c r&l s^t: rolu',
  'd-a a^d e^c g|b h^f i&b ~g j^k i|e k^d n&m o^b p|l n^i q^r: lpsi',
  'd^a e|b e^b a|g h&c h^c i-a f^c ~l e-d m^n o|d p^g c-k r|l q^d s^t r^p j-b v^w: oqux',
  'd-a b^d ~f e^c g^h c-i h^b a-f k^a m|j n^l k|g p^n q^h m-i r^s: qito',
  'd-a b^e a&b e^a c^d h^c a-j i^a k|f l^m a^j n&b o&l p^q b^a o-p s^t f-c ~g i-v w^x: yrun',
];

/** The inverse S-boxes. */
export const INVERSE_CIRCUITS: readonly string[] = [
  'a^d c-d b-a ~e g^c h^i d|e j-e k^b m-f n^l o^i m|d p^q j^d r|o s^t: oujr',
  'd^c b-d c^b g^d f^a i^h g&j k^i j|c m-l n^g i-e ~n p^q g-i r^e s^t: uorj',
  'c^b a^e e|d e^d b-h i^f g^c k-j l^h ~k m^a n^o p-j q^o: jmpr',
  'b-c b^d a^e f^c g-d h^i h&i h|b g-k l-m j-d m^c o^p m^h f-g r-s: jnqt',
  'a&b d^a c^d f-g g^e a-h i^j k&d i^b l^m f-k ~m o^p p^a q&n r^s: qktn',
  'd^a a-c d^b d&a h^c i&b j^e ~i b-f l^m k^b a-n o^p i^g q|k r^s: kqtn',
  'c^a d^b ~f c-a g^h c^f j-d d^a j|g l-k m-n l|e o^f p^q r&o h^d s^t: oiur',
  'a^b a^c c&e a-c b^c d^a i|h e^g f-b k-b ~n j-l o^p m|j j-h o-e t|s u^c d-v s^b w^x r^k y|i z^{: vqy|',
];

/** One operation of a circuit, on bits by their numbers: the four inputs, then what each operation makes. */
export interface Gate {
  kind: '~' | '&' | '|' | '^' | '-';
  a: number;
  /** The same as `a` where there is one operand. */
  b: number;
}

/** A circuit's operations, and the numbers of its outputs. */
export function parseCircuit(circuit: string): { gates: Gate[]; outputs: number[] } {
  const [operations, outputs] = circuit.split(': ');
  const numberOf = (letter: string) => letter.charCodeAt(0) - 'a'.charCodeAt(0);
  const gates = operations.split(' ').map((text): Gate => {
    if (text.startsWith('~')) return { kind: '~', a: numberOf(text[1]), b: numberOf(text[1]) };
    return { kind: text[1] as Gate['kind'], a: numberOf(text[0]), b: numberOf(text[2]) };
  });
  return { gates, outputs: [...outputs].map(numberOf) };
}
