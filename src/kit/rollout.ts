/** How finely a rollout can be set: in hundredths of a percent. */
export const rolloutBuckets = 10_000

const rotateLeft = (value: number, bits: number): number => (value << bits) | (value >>> (32 - bits))

const scramble = (block: number): number => Math.imul(rotateLeft(Math.imul(block, 0xcc9e2d51), 15), 0x1b873593)

const encoder = new TextEncoder()

/**
 * MurmurHash3, x86, 32 bits, by Austin Appleby (public domain): https://github.com/aappleby/smhasher. Not for secrets: who
 * chooses the input chooses the hash.
 */
export const murmurHash3 = (bytes: Uint8Array, seed = 0): number => {
  const { length } = bytes
  const at = (index: number): number => bytes[index] as number
  let hash = seed
  const end = length - (length % 4)
  for (let index = 0; index < end; index += 4) {
    const block = at(index) | (at(index + 1) << 8) | (at(index + 2) << 16) | (at(index + 3) << 24)
    hash = (Math.imul(rotateLeft(hash ^ scramble(block), 13), 5) + 0xe6546b64) | 0
  }
  let tail = 0
  for (let index = length - 1; index >= end; index -= 1) tail = (tail << 8) | at(index)
  if (length > end) hash ^= scramble(tail)
  hash ^= length
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}

/**
 * The bucket of a subject in the rollout of a name, 0 to 9,999: the 32-bit hash of the UTF-8 text `name:subject` with the seed
 * 0, times 10,000, divided by 2^32 and rounded down.
 *
 * Guarantee: the same on every instance, runtime and version, so that a subject which was reached by a rollout stays in it while
 * its percentage grows. Two names place their subjects independently. A name has no colon, so no two pairs have one text.
 */
export const rolloutBucket = (name: string, subject: string): number =>
  Math.floor((murmurHash3(encoder.encode(`${name}:${subject}`)) / 2 ** 32) * rolloutBuckets)

/** Whether a rollout to this percentage, with up to two decimals, reaches the subject. 0 reaches none, and 100 all. */
export const isInRollout = (name: string, subject: string, percent: number): boolean =>
  percent > 0 && (percent >= 100 || rolloutBucket(name, subject) < Math.round(percent * 100))
