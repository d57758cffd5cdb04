/**
 * The load of `overload.ts`, as a process that costs little beside the server: raw sockets with keep-alive, and bodies that are
 * counted but not parsed. Takes one `Order` after the other over IPC, and answers each with its results.
 */
import process from 'node:process'

export type Order = {
  readonly baseUrl: string
  readonly perSecond: number
  readonly phaseMs: number
  readonly onsetMs: number
  readonly listTokens: readonly string[]
  /** Sessions to end, one each 100 ms. */
  readonly sessions: readonly string[]
}
export type Result = {
  readonly outcome: string
  readonly retryAfter: string | undefined
  readonly ms: number
  readonly atMs: number
}
export type Results = { readonly lists: Result[]; readonly revocations: Result[]; readonly probes: Result[] }

type Waiting = {
  readonly resolve: (response: { head: string; body: string }) => void
  readonly reject: (e: Error) => void
}
type Connection = {
  socket: Bun.Socket<Connection> | undefined
  waiting: Waiting | undefined
  parts: Uint8Array[]
  size: number
  wanted: number
  head: string
}

const idle: Connection[] = []
const decoder = new TextDecoder()
const headEnd = Buffer.from('\r\n\r\n')

const take = (connection: Connection, chunk: Uint8Array) => {
  connection.parts.push(chunk)
  connection.size += chunk.length
  if (connection.wanted === 0) {
    const bytes = Buffer.concat(connection.parts)
    const end = bytes.indexOf(headEnd)
    if (end === -1) return
    connection.head = decoder.decode(bytes.subarray(0, end))
    const length = Number(/^content-length: (\d+)/im.exec(connection.head)?.[1] ?? 0)
    connection.wanted = end + headEnd.length + length
  }
  if (connection.size < connection.wanted) return
  const { head, waiting, parts } = connection
  const bytes = head.startsWith('HTTP/1.1 2') ? Buffer.alloc(0) : Buffer.concat(parts)
  Object.assign(connection, { waiting: undefined, parts: [], size: 0, wanted: 0, head: '' })
  idle.push(connection)
  waiting?.resolve({ head, body: decoder.decode(bytes.subarray(bytes.indexOf(headEnd) + headEnd.length)) })
}

const connect = async (url: URL): Promise<Connection> => {
  const connection: Connection = { socket: undefined, waiting: undefined, parts: [], size: 0, wanted: 0, head: '' }
  const lose = () => {
    const at = idle.indexOf(connection)
    if (at !== -1) idle.splice(at, 1)
    connection.waiting?.reject(new Error('The server closed a connection'))
  }
  connection.socket = await Bun.connect<Connection>({
    hostname: url.hostname,
    port: Number(url.port),
    data: connection,
    socket: { data: (socket, chunk) => take(socket.data, chunk), close: lose, error: lose },
  })
  return connection
}

const ask = async (baseUrl: string, path: string, token?: string, method = 'GET'): Promise<Result> => {
  const url = new URL(baseUrl)
  const connection = idle.pop() ?? (await connect(url))
  const atMs = performance.now()
  const authorization = token === undefined ? '' : `Authorization: Bearer ${token}\r\n`
  const length = method === 'POST' ? 'Content-Length: 0\r\n' : ''
  const { head, body } = await new Promise<{ head: string; body: string }>((resolve, reject) => {
    connection.waiting = { resolve, reject }
    connection.socket?.write(`${method} ${path} HTTP/1.1\r\nHost: ${url.host}\r\n${authorization}${length}\r\n`)
  })
  const ms = performance.now() - atMs
  const status = head.slice(9, 12)
  return {
    outcome: status < '400' ? status : `${status} ${JSON.parse(body).code ?? ''}`,
    retryAfter: status < '400' ? undefined : /^retry-after: (.*)$/im.exec(head)?.[1],
    ms,
    atMs,
  }
}

const run = async ({ baseUrl, perSecond, phaseMs, listTokens, sessions }: Order): Promise<Results> => {
  const results: Results = { lists: [], revocations: [], probes: [] }
  const left = [...sessions]
  const startedMs = performance.now()
  const underWay: Promise<unknown>[] = []
  const begin = (into: Result[], ...given: Parameters<typeof ask> extends [string, ...infer R] ? R : never) =>
    underWay.push(ask(baseUrl, ...given).then((result) => into.push({ ...result, atMs: result.atMs - startedMs })))
  let nextMs = startedMs
  let askedAtMs = startedMs
  for (let number = 0; performance.now() < startedMs + phaseMs; ) {
    while (nextMs <= performance.now()) {
      begin(results.lists, '/api/v1/projects?limit=100', listTokens[number % listTokens.length])
      number += 1
      nextMs += (-Math.log(1 - Math.random()) * 1_000) / perSecond
    }
    if (performance.now() >= askedAtMs) {
      askedAtMs += 100
      begin(results.revocations, '/api/v1/auth/logout', left.pop(), 'POST')
      for (const path of ['/health', '/ready']) begin(results.probes, path)
    }
    await Bun.sleep(1)
  }
  await Promise.all(underWay)
  return results
}

process.on('message', (order: Order) => {
  run(order).then((results) => process.send?.(results))
})
process.on('disconnect', () => process.exit())
