import type { PlannedRequest } from './plan.ts'

export type Answer = { readonly status: number; readonly body: string }

/** The bytes of a request up to its body. */
export const headOf = ({ method, path }: PlannedRequest, host: string, token: string | undefined): string =>
  [
    `${method} ${path} HTTP/1.1`,
    `host: ${host}`,
    ...(token === undefined ? [] : [`authorization: Bearer ${token}`]),
    'accept: */*',
    '',
  ].join('\r\n')

export const withBody = (head: string, body: string | undefined): Buffer =>
  body === undefined
    ? Buffer.from(`${head}\r\n`)
    : Buffer.from(`${head}content-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)

const lengthOf = (head: string): number | 'chunked' | undefined => {
  const [, length] = /\r\ncontent-length: *(\d+)/i.exec(head) ?? []
  if (length !== undefined) return Number(length)
  return /\r\ntransfer-encoding: *chunked/i.test(head) ? 'chunked' : undefined
}

/** The one answer in these bytes; undefined while it is incomplete. A connection has one request under way at a time. */
export const readAnswer = (bytes: Buffer): Answer | undefined => {
  const headEnd = bytes.indexOf('\r\n\r\n')
  if (headEnd < 0) return undefined
  const head = bytes.toString('latin1', 0, headEnd)
  const status = Number(head.slice(9, 12))
  const bodyStart = headEnd + 4
  const length = status === 204 || status === 304 ? 0 : (lengthOf(head) ?? 0)
  if (length === 'chunked') {
    const text = bytes.toString('latin1', bodyStart)
    return text.endsWith('0\r\n\r\n') ? { status, body: text } : undefined
  }
  if (bytes.length < bodyStart + length) return undefined
  return { status, body: bytes.toString('latin1', bodyStart, bodyStart + length) }
}
