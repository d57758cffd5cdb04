const decoder = new TextDecoder('utf-8', { fatal: true })

/** Raised for bytes that are not the JSON text we take. `reason` is safe to show. */
export class InvalidJson extends Error {
  override readonly name = 'InvalidJson'
  readonly reason: string
  constructor(reason: string) {
    super(reason)
    this.reason = reason
  }
}

const refuseUnstorable = (value: unknown): void => {
  if (typeof value === 'string') {
    if (!value.isWellFormed() || value.includes('\0')) {
      throw new InvalidJson('A string holds a NUL or a lone surrogate')
    }
    return
  }
  if (typeof value !== 'object' || value === null) return
  for (const [key, member] of Object.entries(value)) {
    refuseUnstorable(key)
    refuseUnstorable(member)
  }
}

const maxDepth = 64
const quote = 0x22
const backslash = 0x5c
const isOpening = (byte: number) => byte === 0x5b || byte === 0x7b
const isClosing = (byte: number) => byte === 0x5d || byte === 0x7d

/** Whether brackets are nested deeper than any schema of ours is. A small body can do no harm and is not looked at. */
const isTooDeep = (bytes: Uint8Array): boolean => {
  if (bytes.length < 1_024) return false
  let depth = 0
  let inString = false
  for (let index = 0; index < bytes.length; index += 1) {
    const byte = bytes[index] as number
    if (byte === quote) inString = !inString
    else if (inString) index += byte === backslash ? 1 : 0
    else if (isOpening(byte)) depth += 1
    else if (isClosing(byte)) depth -= 1
    if (depth > maxDepth) return true
  }
  return false
}

/**
 * Parses a request body (RFC 8259). Refused: bytes that are not UTF-8, text that is not JSON or nested deeper than 64,
 * and strings that no text column can hold (NUL, lone surrogates). Those can only come in as `\u` escapes, so plain
 * bodies are not walked.
 */
export const parseJson = (bytes: Uint8Array): unknown => {
  if (isTooDeep(bytes)) throw new InvalidJson('The body is nested too deep')
  let text: string
  try {
    text = decoder.decode(bytes)
  } catch {
    throw new InvalidJson('The body is not UTF-8')
  }
  try {
    const value: unknown = JSON.parse(text)
    if (text.includes('\\u')) refuseUnstorable(value)
    return value
  } catch (error) {
    if (error instanceof InvalidJson) throw error
    throw new InvalidJson('The body is not JSON')
  }
}
