/*
 * Principals and resources are known to the detector by hashes alone. The seeds follow from SECRET and are the same for all
 * instances of a deployment, so that clients cannot choose ids that collide.
 */

const prime = 0x01000193
/** Ids differ in their last characters. */
const hashedLength = 24

const finish = (hash: number): number => {
  const mixed = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d)
  return (mixed ^ (mixed >>> 12)) >>> 0
}

/** 32 bits of the characters of a text between two places (FNV-1a); never 0, which stands for none. */
export const hashBetween = (text: string, from: number, to: number, seed: number): number => {
  let hash = seed
  for (let at = from; at < to; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), prime)
  return finish(hash) || 1
}

/** 32 bits of the end of a text. */
export const hashOf = (text: string, seed: number): number =>
  hashBetween(text, Math.max(0, text.length - hashedLength), text.length, seed)
