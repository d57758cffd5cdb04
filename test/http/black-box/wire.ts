import { connect } from 'node:net'

/** An answer as it came over the socket. */
export type WireAnswer = {
  status: number
  /** In lower case, in the order they came. */
  headers: [name: string, value: string][]
  body: string
}

const endOfHead = '\r\n\r\n'

const parseHead = (head: string) => {
  const [statusLine = '', ...lines] = head.split('\r\n')
  return {
    status: Number(statusLine.split(' ')[1]),
    headers: lines.map((line): [string, string] => {
      const colon = line.indexOf(':')
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()]
    }),
  }
}

/** The first complete answer in the bytes received so far, or undefined. */
const parseAnswer = (received: string, ended: boolean, method: string): WireAnswer | undefined => {
  const split = received.indexOf(endOfHead)
  if (split < 0) return undefined
  const { status, headers } = parseHead(received.slice(0, split))
  const body = received.slice(split + endOfHead.length)
  // 100 Continue is not yet an answer.
  if (status < 200) return parseAnswer(body, ended, method)
  const length = headers.find(([name]) => name === 'content-length')?.[1]
  if (method === 'HEAD' || status === 204) return { status, headers, body: '' }
  if (length !== undefined) return body.length < Number(length) ? undefined : { status, headers, body }
  if (headers.some(([name, value]) => name === 'transfer-encoding' && value === 'chunked')) {
    return body.endsWith('0\r\n\r\n') ? { status, headers, body } : undefined
  }
  return ended ? { status, headers, body } : undefined
}

/**
 * Sends bytes that no client library would, and reads one answer (as latin1, so that a character is a byte). `parts` go
 * out one after the other, until they are through or the answer is there. Undefined when the server hangs up without one.
 */
export const sendRaw = (baseUrl: string, parts: readonly (string | Uint8Array)[]): Promise<WireAnswer | undefined> =>
  new Promise((resolve, reject) => {
    const { hostname, port } = new URL(baseUrl)
    const method = String(parts[0]).split(' ')[0] ?? ''
    const socket = connect({ host: hostname, port: Number(port || 80) })
    let received = ''
    let done = false
    const finish = (ended: boolean) => {
      if (done) return
      const answer = parseAnswer(received, ended, method)
      if (answer === undefined && !ended) return
      done = true
      socket.destroy()
      resolve(answer)
    }
    const pour = async () => {
      for (const part of parts) {
        if (done) return
        await new Promise<void>((next) => socket.write(part, () => next()))
      }
    }
    socket.setTimeout(5_000, () => socket.destroy(new Error(`No answer in 5 s to ${method}, but: ${received}`)))
    socket.on('connect', () => void pour())
    socket.on('data', (chunk) => {
      received += chunk.toString('latin1')
      finish(false)
    })
    socket.on('end', () => finish(true))
    socket.on('close', () => finish(true))
    socket.on('error', (error: NodeJS.ErrnoException) => {
      // A server that refuses a body hangs up on the rest of it; its answer may still be there.
      if (error.code === 'EPIPE' || error.code === 'ECONNRESET') finish(true)
      else if (!done) reject(error)
    })
  })

/** A request's head. */
export const headOf = (method: string, target: string, headers: Record<string, string>): string =>
  [
    `${method} ${target} HTTP/1.1`,
    'host: localhost',
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
  ].join('\r\n') + endOfHead
