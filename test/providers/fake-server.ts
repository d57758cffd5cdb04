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

/** How the server responds to one request. */
export type Respond = (response: ServerResponse, received: Received) => void

export const json =
  (value: unknown, status = 200, headers: Record<string, string> = {}): Respond =>
  (response) =>
    void response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(value))

export const file =
  (bytes: Uint8Array | string, type: string, headers: Record<string, string> = {}): Respond =>
  (response) =>
    void response.writeHead(200, { 'content-type': type, ...headers }).end(bytes)

export const status =
  (code: number, headers: Record<string, string> = {}): Respond =>
  (response) =>
    void response.writeHead(code, headers).end()

/** Never responds. */
export const hang: Respond = () => {}
/** Starts a response and never completes it. */
export const hangInBody =
  (type: string): Respond =>
  (response) =>
    void response.writeHead(200, { 'content-type': type, 'content-length': '1000' }).write('{')
/** Closes the connection without a response. */
export const closeConnection: Respond = (response) => void response.socket?.destroy()
/** Closes the connection in the middle of the body. */
export const truncated =
  (type: string, headers: Record<string, string> = { 'content-length': '1000' }): Respond =>
  (response) => {
    response.writeHead(200, { 'content-type': type, ...headers })
    response.write('{"some":', () => setTimeout(() => response.socket?.destroy(), 5))
  }
export const truncatedWithoutLength = (type: string) => truncated(type, {})

const readBody = async (message: IncomingMessage): Promise<unknown> => {
  const chunks: Uint8Array[] = []
  for await (const chunk of message) chunks.push(chunk as Uint8Array)
  const text = Buffer.concat(chunks).toString()
  return text === '' ? undefined : JSON.parse(text)
}

export type FakeServer = {
  readonly baseUrl: string
  readonly port: number
  /** All requests, in the order received. */
  readonly received: Received[]
  /** Scripts the responses for a method and a path: one for each request, and the last one for all further requests. */
  on(methodAndPath: string, ...acts: Respond[]): void
  /** Number of requests for a method and a path. */
  count(methodAndPath: string): number
  /** Resolves at the next request for a method and a path. */
  nextRequest(methodAndPath: string): Promise<void>
  close(): Promise<void>
}

/** An HTTP server on 127.0.0.1 with scripted responses; 404 for every other request. */
export const startFakeServer = async (): Promise<FakeServer> => {
  const acts = new Map<string, Respond[]>()
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
    nextRequest: (key) => new Promise((resolve) => waiting.set(key, [...(waiting.get(key) ?? []), resolve])),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

/** Connects to a fake server for every address, and records the host and addresses that were requested. */
export const connectToFake = ({ port }: FakeServer) => {
  const connections: { host: string; addresses: readonly string[] }[] = []
  const connect: Connect = (url, addresses, { method = 'GET', headers, signal }) => {
    connections.push({ host: url.hostname, addresses })
    const path = `${url.pathname}${url.search}`
    const sent = { ...headers, host: url.host }
    return request({ host: '127.0.0.1', port, path, method, agent: false, signal, headers: sent })
  }
  return { connect, connections }
}
