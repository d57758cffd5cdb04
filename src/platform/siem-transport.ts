import { Buffer } from 'node:buffer'
import { readFile } from 'node:fs/promises'
import { request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { connect, type Socket } from 'node:net'
import process from 'node:process'
import { connect as connectTls } from 'node:tls'

/** The receiver finds the batch too large (413). */
export class BatchTooLarge extends Error {
  override readonly name = 'BatchTooLarge'
}

/** The receiver answered with a status other than 2xx. */
export class BatchRefused extends Error {
  override readonly name = 'BatchRefused'
}

/** Resolves once the receiver has everything; rejects where that is not known. */
export type Transport = (data: Buffer, signal: AbortSignal) => Promise<void>

const readCa = async (file: string | undefined): Promise<{ ca?: string }> =>
  file === undefined ? {} : { ca: await readFile(file, 'utf8') }

/** Sends each batch as one POST, on a connection that is not used again. Redirects are not followed. */
export const createHttpsTransport = ({
  url,
  headers,
  caFile,
}: {
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly caFile: string | undefined
}): Transport => {
  const target = new URL(url)
  const request = target.protocol === 'http:' ? httpRequest : httpsRequest
  return async (data, signal) => {
    const trusted = target.protocol === 'http:' ? {} : await readCa(caFile)
    await new Promise<void>((resolve, reject) => {
      const length = String(data.length)
      const options = {
        method: 'POST',
        agent: false,
        ...trusted,
        headers: { ...headers, 'content-length': length },
        signal,
      }
      const sent = request(target, options, (response) => {
        const { statusCode: status = 0 } = response
        response.on('error', reject)
        response.on('end', () => {
          if (status >= 200 && status < 300) resolve()
          else if (status === 413) reject(new BatchTooLarge('The receiver answered 413'))
          else reject(new BatchRefused(`The receiver answered ${status}`))
        })
        response.resume()
      })
      sent.on('error', reject)
      sent.on('close', () => reject(new Error('The connection was closed before the answer')))
      sent.end(data)
    })
  }
}

/**
 * Sends each batch on a connection of its own, over TCP or TLS.
 *
 * Syslog has no answer to a message. So the end of the connection is ours to announce and the receiver's to confirm: it closes its
 * side when it has read everything before the end. A connection that was reset, or is not closed in time, has an unknown outcome.
 */
export const createSocketTransport =
  ({ host, port, tls, caFile }: { host: string; port: number; tls: boolean; caFile: string | undefined }): Transport =>
  async (data, signal) => {
    const trusted = tls ? await readCa(caFile) : {}
    signal.throwIfAborted()
    let socket: Socket | undefined
    const abort = () => socket?.destroy(new Error('The receiver did not confirm the end of the connection in time'))
    signal.addEventListener('abort', abort)
    try {
      await new Promise<void>((resolve, reject) => {
        const send = () => {
          socket?.end(data)
          // What a receiver sends is ignored, but read, or its end would never be seen.
          socket?.resume()
        }
        let [isSent, isConfirmed] = [false, false]
        const made: Socket = tls ? connectTls({ host, port, ...trusted }, send) : connect({ host, port }, send)
        socket = made
        made.on('finish', () => {
          isSent = true
        })
        made.on('end', () => {
          // Bun takes a connection that was reset while it wrote for one that was ended, and counts what it wrote.
          isConfirmed = isSent && made.bytesWritten >= data.length
        })
        made.on('error', reject)
        made.on('close', (hadError) => {
          if (isConfirmed && !hadError) resolve()
          else reject(new Error('The receiver ended the connection before it had everything'))
        })
      })
    } finally {
      signal.removeEventListener('abort', abort)
      socket?.destroy()
    }
  }

/** Writes to standard output, as fast as it is read. */
export const createStdoutTransport = (): Transport => (data) =>
  new Promise((resolve, reject) => {
    process.stdout.write(data, (error) => (error ? reject(error) : resolve()))
  })

/** Lines of text as they are sent. */
export const linesOf = (texts: readonly string[]): Buffer => Buffer.from(texts.map((text) => `${text}\n`).join(''))
