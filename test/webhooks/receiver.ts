import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Webhook } from 'standardwebhooks'

export type Received = {
  readonly path: string
  readonly headers: IncomingHttpHeaders
  readonly text: string
  readonly id: string
  readonly type: string
  // biome-ignore lint/suspicious/noExplicitAny: as sent
  readonly data: any
}

/** A status, with its headers; 'hang': no answer; 'close': the connection is closed. */
export type Reply = number | { status: number; headers: Record<string, string> } | 'hang' | 'close'

/** Verifies a request as receivers do, with the published library of Standard Webhooks. Throws if it is not authentic. */
export const verify = ({ text, headers }: Pick<Received, 'text' | 'headers'>, secret: string): unknown =>
  new Webhook(secret).verify(text, headers as Record<string, string>)

/** As `verify`, for a request of any time: whether one of its signatures is that of the library. */
export const isSignedBy = ({ id, text, headers }: Received, secret: string): boolean => {
  const at = new Date(Number(headers['webhook-timestamp']) * 1_000)
  return String(headers['webhook-signature'])
    .split(' ')
    .includes(new Webhook(secret).sign(id, at, text))
}

/**
 * A receiver of webhooks on 127.0.0.1. It answers 204, or what `reply` says. `received` are the requests of each path in the
 * order in which they came in.
 */
export const startReceiver = async (port = 0) => {
  const all: Received[] = []
  let reply: (request: Received) => Reply = () => 204
  const server = createServer(async (message, response) => {
    let text = ''
    for await (const chunk of message) text += chunk
    const { type, data } = JSON.parse(text)
    const { url: path = '', headers } = message
    const request = { path, headers, text, id: String(headers['webhook-id']), type, data }
    all.push(request)
    const answer = reply(request)
    if (answer === 'hang') return
    if (answer === 'close') return void response.socket?.destroy()
    if (typeof answer === 'number') response.writeHead(answer).end()
    else response.writeHead(answer.status, answer.headers).end()
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, '127.0.0.1', resolve)
  })
  const { port: actual } = server.address() as AddressInfo
  return {
    host: `127.0.0.1:${actual}`,
    url: (path: string) => `http://127.0.0.1:${actual}${path}`,
    received: (path: string) => all.filter((request) => request.path === path),
    setReply: (next: (request: Received) => Reply) => {
      reply = next
    },
    /** Ends all connections, those of requests that hang too. */
    hangUp: () => server.closeAllConnections(),
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

export type Receiver = Awaited<ReturnType<typeof startReceiver>>
