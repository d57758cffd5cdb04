const decoder = new TextDecoder('utf-8', { fatal: true })

/** The bytes are not acceptable JSON. `reason` can be shown to the client. */
export class InvalidJson extends Error {
  override readonly name = 'InvalidJson'
  readonly reason: string
  constructor(reason: string) {
    super(reason)
    this.reason = reason
  }
}

const rejectUnstorable = (value: unknown): void => {
  if (typeof value === 'string') {
    if (!value.isWellFormed() || value.includes('\0')) {
      throw new InvalidJson('A string contains a NUL character or a lone surrogate')
    }
    return
  }
  if (typeof value !== 'object' || value === null) return
  for (const [key, member] of Object.entries(value)) {
    rejectUnstorable(key)
    rejectUnstorable(member)
  }
}

const maxDepth = 64
const quote = 0x22
const backslash = 0x5c
const isOpening = (byte: number) => byte === 0x5b || byte === 0x7b
const isClosing = (byte: number) => byte === 0x5d || byte === 0x7d

/** Whether brackets are nested deeper than `maxDepth`. Bodies under 1 KiB are harmless and are not scanned. */
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
 * Parses a request body (RFC 8259). Throws `InvalidJson` for bytes that are not UTF-8, text that is not JSON, nesting deeper
 * than 64 levels, and strings that a Postgres text column cannot store (NUL, lone surrogates) unless `mayBeStored` returns
 * false. Those can only be written as `\u` escapes, so `mayBeStored` is not called and the value not walked without escapes.
 */
export const parseJson = (bytes: Uint8Array, mayBeStored: () => boolean = () => true): unknown => {
  if (isTooDeep(bytes)) throw new InvalidJson(`The body is nested deeper than ${maxDepth} levels`)
  let text: string
  try {
    text = decoder.decode(bytes)
  } catch {
    throw new InvalidJson('The body is not UTF-8')
  }
  try {
    const value: unknown = JSON.parse(text)
    if (text.includes('\\u') && mayBeStored()) rejectUnstorable(value)
    return value
  } catch (error) {
    if (error instanceof InvalidJson) throw error
    throw new InvalidJson('The body is not JSON')
  }
}
