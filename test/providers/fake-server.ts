import { Buffer } from 'node:buffer'
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Connect } from '../../src/platform/safe-fetch.ts'

export type Received = {
  readonly method: string
  readonly url: string
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly body: unknown
}

/** What a server does with one request. */
export type Act = (response: ServerResponse, received: Received) => void

export const json =
  (value: unknown, status = 200, headers: Record<string, string> = {}): Act =>
  (response) =>
    void response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(value))

export const file =
  (bytes: Uint8Array | string, type: string, headers: Record<string, string> = {}): Act =>
  (response) =>
    void response.writeHead(200, { 'content-type': type, ...headers }).end(bytes)

export const status =
  (code: number, headers: Record<string, string> = {}): Act =>
  (response) =>
    void response.writeHead(code, headers).end()

/** Says nothing, for good. */
export const hang: Act = () => {}
/** Begins, and says nothing more. */
export const hangWithin =
  (type: string): Act =>
  (response) =>
    void response.writeHead(200, { 'content-type': type, 'content-length': '1000' }).write('{')
/** Closes the connection before the answer. */
export const drop: Act = (response) => void response.socket?.destroy()
/** Closes it within the answer. */
export const cut =
  (type: string, headers: Record<string, string> = { 'content-length': '1000' }): Act =>
  (response) => {
    response.writeHead(200, { 'content-type': type, ...headers })
    response.write('{"some":', () => setTimeout(() => response.socket?.destroy(), 5))
  }
export const cutWithoutLength = (type: string) => cut(type, {})

const readBody = async (message: IncomingMessage): Promise<unknown> => {
  const chunks: Uint8Array[] = []
  for await (const chunk of message) chunks.push(chunk as Uint8Array)
  const text = Buffer.concat(chunks).toString()
  return text === '' ? undefined : JSON.parse(text)
}

export type FakeServer = {
  readonly baseUrl: string
  readonly port: number
  /** All that came, in its order. */
  readonly received: Received[]
  /** What is done with the requests for a method and a path: in turn, the last of them from then on. */
  on(methodAndPath: string, ...acts: Act[]): void
  /** How often a method and a path were asked for. */
  count(methodAndPath: string): number
  /** Resolves when they are asked for the next time. */
  asked(methodAndPath: string): Promise<void>
  close(): Promise<void>
}

/** An HTTP server on 127.0.0.1 that does as it is told. What it was told nothing about is 404. */
export const startFakeServer = async (): Promise<FakeServer> => {
  const acts = new Map<string, Act[]>()
  const received: Received[] = []
  const waiting = new Map<string, (() => void)[]>()
  const server = createServer(async (message, response) => {
    const { method = '', url = '', headers } = message
    const what = { method, url, headers, body: await readBody(message) }
    received.push(what)
    const key = `${method} ${url}`
    const list = acts.get(key)
    const act = list !== undefined && list.length > 1 ? list.shift() : list?.[0]
    ;(act ?? status(404))(response, what)
    for (const wake of waiting.get(key)?.splice(0) ?? []) wake()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    baseUrl: `http://127.0.0.1:${port}`,
    port,
    received,
    on: (key, ...list) => void acts.set(key, list),
    count: (key) => received.filter(({ method, url }) => `${method} ${url}` === key).length,
    asked: (key) => new Promise((resolve) => waiting.set(key, [...(waiting.get(key) ?? []), resolve])),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

/** Connects to a fake server whatever the address, and keeps where it should have gone. */
export const connectToFake = ({ port }: FakeServer) => {
  const connections: { host: string; addresses: readonly string[] }[] = []
  const connect: Connect = (url, addresses, { headers, signal }) => {
    connections.push({ host: url.hostname, addresses })
    const path = `${url.pathname}${url.search}`
    return request({ host: '127.0.0.1', port, path, agent: false, signal, headers: { ...headers, host: url.host } })
  }
  return { connect, connections }
}
