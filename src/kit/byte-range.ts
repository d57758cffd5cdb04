/** A part of a thing of bytes: from `first` to `last` (itself included; the end when it is left out), or its last so many. */
export type ByteRange = { readonly first: number; readonly last?: number } | { readonly suffix: number }

/** Raised for a part that begins after the end. A 416 tells `total` in its `Content-Range`. */
export class RangeNotSatisfiable extends Error {
  override readonly name = 'RangeNotSatisfiable'
  readonly total: number
  constructor(total: number) {
    super(`Not a part of ${total} bytes`)
    this.total = total
  }
}

/**
 * What a `Range` header asks for (RFC 9110 §14.2). Undefined is the whole: no header, another unit, more than one part,
 * or something that is no range; all of these a server may, and we do, answer with 200.
 */
export const parseRange = (header: string | null): ByteRange | undefined => {
  const [, from = '', to = ''] = /^bytes=\s*(\d{0,15})-(\d{0,15})\s*$/i.exec(header ?? '') ?? []
  if (from === '') return to === '' ? undefined : { suffix: Number(to) }
  if (to === '') return { first: Number(from) }
  return Number(from) <= Number(to) ? { first: Number(from), last: Number(to) } : undefined
}

/** Where a range lies in `total` bytes. Throws `RangeNotSatisfiable` where nothing of it does. */
export const resolveRange = (range: ByteRange | undefined, total: number): { first: number; length: number } => {
  if (range === undefined) return { first: 0, length: total }
  const first = 'suffix' in range ? Math.max(0, total - range.suffix) : range.first
  if (first >= total) throw new RangeNotSatisfiable(total)
  const last = 'suffix' in range ? total - 1 : Math.min(range.last ?? total - 1, total - 1)
  return { first, length: last - first + 1 }
}
