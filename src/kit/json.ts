import { Buffer } from 'node:buffer'

const decoder = new TextDecoder('utf-8', { fatal: true })

/** The bytes are not acceptable JSON. `reason` can be shown to the client, after the words "the body". */
export class InvalidJson extends Error {
  override readonly name = 'InvalidJson'
  readonly reason: string
  constructor(reason: string) {
    super(reason)
    this.reason = reason
  }
}

/**
 * What one body may hold, so that its parts cost no more than its bytes. A batch of 200 has about 1,500 values and 1,000 names.
 * `escapes` counts backslashes in strings; `literal` is the length of a number, in bytes.
 */
export const jsonLimits = { depth: 64, values: 20_000, names: 10_000, escapes: 50_000, literal: 1_024 } as const

/** Smaller texts are within the limits, or so near that it makes no difference. */
const minScannedBytes = 1_024

/** The most bytes to scan before yielding to the event loop: about 0.1 ms. */
export const maxScanBytes = 65_536

const unstorable = 'must have no NUL character and no lone surrogate in its strings'

const [quote, backslash, letterU] = [0x22, 0x5c, 0x75]

/** What a byte outside of strings does. */
const roles = { part: 0, blank: 1, opening: 2, closing: 3, comma: 4, colon: 5, quote: 6 } as const
const roleOf = new Uint8Array(256)
for (const [text, role] of [
  [' \t\r\n', roles.blank],
  ['[{', roles.opening],
  [']}', roles.closing],
  [',', roles.comma],
  [':', roles.colon],
  ['"', roles.quote],
] as const) {
  for (const character of text) roleOf[character.charCodeAt(0)] = role
}

/** The value of a hexadecimal digit; 255 for any other byte. */
const digitOf = new Uint8Array(256).fill(255)
for (let digit = 0; digit < 16; digit += 1) {
  const character = digit.toString(16)
  digitOf[character.charCodeAt(0)] = digit
  digitOf[character.toUpperCase().charCodeAt(0)] = digit
}

/** The UTF-16 unit of the four hexadecimal digits from `index`; undefined where one is no such digit, which is not JSON. */
const unitAt = (bytes: Uint8Array, index: number): number | undefined => {
  let unit = 0
  for (let at = index; at < index + 4; at += 1) {
    const digit = digitOf[bytes[at] ?? 0] as number
    if (digit > 15) return undefined
    unit = unit * 16 + digit
  }
  return unit
}

const isHigh = (unit: number) => unit >= 0xd800 && unit <= 0xdbff
const isLow = (unit: number) => unit >= 0xdc00 && unit <= 0xdfff

/** The number of bytes of the `\u` escape at `index`, or of the two of a surrogate pair. Throws for one that cannot be stored. */
const lengthOfEscape = (bytes: Uint8Array, index: number): number => {
  const unit = unitAt(bytes, index + 2)
  if (unit === undefined) return 2
  if (unit === 0 || isLow(unit)) throw new InvalidJson(unstorable)
  if (!isHigh(unit)) return 6
  const isEscape = bytes[index + 6] === backslash && bytes[index + 7] === letterU
  const next = isEscape ? unitAt(bytes, index + 8) : undefined
  if (next === undefined || !isLow(next)) throw new InvalidJson(unstorable)
  return 12
}

/**
 * Counts what a JSON text holds, without parsing it. Throws `InvalidJson` as soon as a limit is passed. A text that is not JSON
 * is counted in some way and left to the parser.
 */
class Scan {
  readonly #bytes: Uint8Array
  readonly #refusesUnstorable: boolean
  #index = 0
  #inString = false
  #depth = 0
  #values = 1
  #names = 0
  #escapes = 0
  /** Where the current number or word may have begun. */
  #literalFrom = 0

  constructor(bytes: Uint8Array, refusesUnstorable: boolean) {
    this.#bytes = bytes
    this.#refusesUnstorable = refusesUnstorable
  }

  /** Scans up to `maxScanBytes` more. Returns whether the end is reached. */
  run(): boolean {
    const end = Math.min(this.#bytes.length, this.#index + maxScanBytes)
    while (this.#index < end) {
      if (this.#inString) this.#scanString(end)
      else this.#scanStructure(end)
    }
    if (this.#index < this.#bytes.length) return false
    if (!this.#inString) this.#endLiteral(this.#index)
    return true
  }

  #scanString(end: number): void {
    const bytes = this.#bytes
    let index = this.#index
    let escapes = this.#escapes
    while (index < end) {
      const byte = bytes[index]
      if (byte === quote) {
        this.#inString = false
        index += 1
        this.#literalFrom = index
        break
      }
      if (byte !== backslash) index += 1
      else {
        escapes += 1
        index += this.#refusesUnstorable && bytes[index + 1] === letterU ? lengthOfEscape(bytes, index) : 2
      }
    }
    this.#index = index
    this.#escapes = escapes
    if (escapes > jsonLimits.escapes)
      throw new InvalidJson(`must have at most ${jsonLimits.escapes} escapes in its strings`)
  }

  #scanStructure(end: number): void {
    const bytes = this.#bytes
    let index = this.#index
    for (; index < end; index += 1) {
      const role = roleOf[bytes[index] as number]
      if (role === roles.part) continue
      if (index - this.#literalFrom > jsonLimits.literal) this.#endLiteral(index)
      this.#literalFrom = index + 1
      if (role === roles.quote) {
        this.#inString = true
        index += 1
        break
      }
      if (role !== roles.blank) this.#count(role)
    }
    this.#index = index
  }

  #count(role: number | undefined): void {
    // A value is the only one of the text, or follows a comma, or is the first in its brackets.
    if (role === roles.comma) this.#values += 1
    else if (role === roles.colon) this.#names += 1
    else if (role === roles.closing) this.#depth -= 1
    else {
      this.#depth += 1
      this.#values += 1
      if (this.#depth > jsonLimits.depth)
        throw new InvalidJson(`must be nested at most ${jsonLimits.depth} levels deep`)
    }
    if (this.#values > jsonLimits.values) throw new InvalidJson(`must have at most ${jsonLimits.values} values`)
    if (this.#names > jsonLimits.names) throw new InvalidJson(`must have at most ${jsonLimits.names} member names`)
  }

  #endLiteral(index: number): void {
    if (index - this.#literalFrom > jsonLimits.literal)
      throw new InvalidJson(`must have no number longer than ${jsonLimits.literal} bytes`)
  }
}

const rejectUnstorable = (value: unknown): void => {
  if (typeof value === 'string') {
    if (!value.isWellFormed() || value.includes('\0')) throw new InvalidJson(unstorable)
    return
  }
  if (typeof value !== 'object' || value === null) return
  for (const [key, member] of Object.entries(value)) {
    rejectUnstorable(key)
    rejectUnstorable(member)
  }
}

const parse = (bytes: Uint8Array, refusesUnstorable: boolean): unknown => {
  let text: string
  try {
    text = decoder.decode(bytes)
  } catch {
    throw new InvalidJson('must be UTF-8')
  }
  return parseText(text, refusesUnstorable)
}

const parseText = (text: string, refusesUnstorable: boolean): unknown => {
  try {
    const value: unknown = JSON.parse(text)
    if (refusesUnstorable && text.includes('\\u')) rejectUnstorable(value)
    return value
  } catch (error) {
    if (error instanceof InvalidJson) throw error
    throw new InvalidJson('must be JSON')
  }
}

/**
 * Parses a request body of up to `maxScanBytes` (RFC 8259). Throws `InvalidJson` for bytes that are not UTF-8, text that is not
 * JSON or beyond `jsonLimits`, and unless `refusesUnstorable` is false for NUL and lone surrogates, which a Postgres text
 * column cannot store.
 *
 * Cost: below 1 KiB the text is parsed and nothing else; only there a value with `\u` escapes is walked. A longer text is first
 * scanned, so that a hostile one is never parsed.
 */
export const parseJson = (bytes: Uint8Array, refusesUnstorable = true): unknown => {
  if (bytes.length < minScannedBytes) return parse(bytes, refusesUnstorable)
  const scan = new Scan(bytes, refusesUnstorable)
  while (!scan.run());
  return parse(bytes, false)
}

/** Texts that `parseSmallText` takes, as bytes: so few that `parseJson` would not scan them either. */
export const maxTextBytes = minScannedBytes - 1

/**
 * As `parseJson`, for the text of up to `maxTextBytes` bytes that a runtime has decoded, and for values that are not stored. The
 * runtime replaces bytes that are not UTF-8. So a text with replacement characters is refused, unless it has as many bytes as the
 * body: then they were sent, or stand for a character of four bytes whose last one is missing.
 */
export const parseSmallText = (text: string, bytes: number | undefined, refusesUnstorable = true): unknown => {
  if (text.includes('\ufffd') && Buffer.byteLength(text) !== bytes) throw new InvalidJson('must be UTF-8')
  return parseText(text, refusesUnstorable)
}

type LargeOptions = {
  readonly refusesUnstorable: boolean
  /** Resolves when it is this text's turn to use the event loop for a moment. */
  readonly nextTurn: () => Promise<void>
}

/** As `parseJson`, for a text of any length: waits for a turn before each slice is scanned and before the text is parsed. */
export const parseLargeJson = async (
  bytes: Uint8Array,
  { refusesUnstorable, nextTurn }: LargeOptions,
): Promise<unknown> => {
  const scan = new Scan(bytes, refusesUnstorable)
  do await nextTurn()
  while (!scan.run())
  // The parser cannot be interrupted.
  await nextTurn()
  return parse(bytes, false)
}
