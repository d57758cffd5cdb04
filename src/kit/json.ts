const decoder = new TextDecoder('utf-8', { fatal: true })

/** Raised for bytes that are not the JSON text we take. `reason` is safe to show. */
export class JsonRefused extends Error {
  override readonly name = 'JsonRefused'
  readonly reason: string
  constructor(reason: string) {
    super(reason)
    this.reason = reason
  }
}

const refuseUnstorable = (value: unknown): void => {
  if (typeof value === 'string') {
    if (!value.isWellFormed() || value.includes('\0')) {
      throw new JsonRefused('A string holds a NUL or a lone surrogate')
    }
    return
  }
  if (typeof value !== 'object' || value === null) return
  for (const [key, member] of Object.entries(value)) {
    refuseUnstorable(key)
    refuseUnstorable(member)
  }
}

/**
 * Parses a request body (RFC 8259). Refused: bytes that are not UTF-8, text that is not JSON, and strings that no text
 * column can hold (NUL, lone surrogates). Those can only come in as `\u` escapes, so plain bodies are not walked.
 */
export const parseJson = (bytes: Uint8Array): unknown => {
  let text: string
  try {
    text = decoder.decode(bytes)
  } catch {
    throw new JsonRefused('The body is not UTF-8')
  }
  try {
    const value: unknown = JSON.parse(text)
    if (text.includes('\\u')) refuseUnstorable(value)
    return value
  } catch (error) {
    if (error instanceof JsonRefused) throw error
    throw new JsonRefused('The body is not JSON')
  }
}
