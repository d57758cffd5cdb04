/** A byte range: `first` to `last` inclusive (to the end without `last`), or the last `suffix` bytes. */
export type ByteRange = { readonly first: number; readonly last?: number } | { readonly suffix: number }

/** The range starts beyond the end. The 416 response reports `total` in `Content-Range`. */
export class RangeNotSatisfiable extends Error {
  override readonly name = 'RangeNotSatisfiable'
  readonly total: number
  constructor(total: number) {
    super(`The requested range starts beyond the end of the file (${total} bytes)`)
    this.total = total
  }
}

/**
 * Parses a `Range` header (RFC 9110 §14.2). Undefined means the whole representation, to be answered with 200: no header, a
 * unit other than bytes, several ranges, or malformed text. The RFC allows a server to ignore these.
 */
export const parseRange = (header: string | null): ByteRange | undefined => {
  const [, from = '', to = ''] = /^bytes=\s*(\d{0,15})-(\d{0,15})\s*$/i.exec(header ?? '') ?? []
  if (from === '') return to === '' ? undefined : { suffix: Number(to) }
  if (to === '') return { first: Number(from) }
  return Number(from) <= Number(to) ? { first: Number(from), last: Number(to) } : undefined
}

/** Clamps a range to `total` bytes. Throws `RangeNotSatisfiable` when no byte of it exists. */
export const resolveRange = (range: ByteRange | undefined, total: number): { first: number; length: number } => {
  if (range === undefined) return { first: 0, length: total }
  const first = 'suffix' in range ? Math.max(0, total - range.suffix) : range.first
  if (first >= total) throw new RangeNotSatisfiable(total)
  const last = 'suffix' in range ? total - 1 : Math.min(range.last ?? total - 1, total - 1)
  return { first, length: last - first + 1 }
}
