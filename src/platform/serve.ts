import http from 'node:http'
import { serveInTurns } from './serve-in-turns.ts'

/** `arrivedMs`: when the request came, by `performance.now()`, where it had to wait before. */
export type Fetch = (request: Request, arrivedMs?: number) => Response | Promise<Response>

export type ServeOptions = {
  /** Undefined: every address of the machine, or every IPv4 address where there is no IPv6. */
  readonly hostname: string | undefined
  readonly port: number
  /** Lets several processes listen on the port; the kernel distributes connections among them. */
  readonly reusePort?: boolean
  /** The response where Bun cannot send one that the application returned: its file is gone. */
  readonly onFailure?: (error: unknown) => Response
}

/**
 * The HTTP server of Bun or Deno.
 *
 * Guarantee: `addressOf` is the socket's peer address. The URL of a request without a Host header (HTTP/1.0) is as that of
 * others, with a host that the runtime makes up. `stop` keeps serving, so that a load balancer sees this instance as
 * not ready, until no request is pending or `graceMs` have passed; then it closes the remaining connections. `listen`
 * throws `PortTaken` when the port is in use.
 */
export type Server = {
  readonly port: number
  stop(graceMs: number): Promise<void>
}

export type Listener = {
  addressOf(request: Request): string
  listen(fetch: Fetch, options: ServeOptions): Server
}

type BoundListener = Omit<Listener, 'listen'> & { listen(fetch: Fetch, options: BoundOptions): Server }

export class PortTaken extends Error {
  override readonly name = 'PortTaken'
}

/** Above our own limit, so that oversized headers get our problem response instead of the runtime's reset. */
const maxHeaderBytes = 128 * 1_024
const idleTimeoutS = 75
const flushMs = 100

const unknownAddress = '0.0.0.0'

/** What a runtime takes: an address. */
type BoundOptions = ServeOptions & { readonly hostname: string }

const toPortTaken = (error: unknown, { hostname, port }: BoundOptions): unknown => {
  const code = (error as { code?: string; name?: string } | null)?.code ?? (error as Error | null)?.name
  if (code !== 'EADDRINUSE' && code !== 'AddrInUse') return error
  return new PortTaken(
    `Port ${port} on ${hostname} is in use. Stop the process that listens on it, or set PORT to another port.`,
  )
}

const wait = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

const untilIdle = async (pending: () => number, graceMs: number) => {
  const endsAtMs = performance.now() + graceMs
  while (pending() > 0 && performance.now() < endsAtMs) await wait(20)
}

/**
 * The application has its own limits, and answers with a problem where Bun would send a 413 without a body. Bun reads no
 * more of a body than a few MiB before the application does, so this bound protects no memory.
 */
const maxBodyBytes = Number.MAX_SAFE_INTEGER

const slash = 0x2f

const bunListener = (): BoundListener => {
  let server: Bun.Server<undefined> | undefined
  /** The original of each request that was given another URL. */
  const originals = new WeakMap<Request, Request>()
  /** Bun gives a bare path as the URL of a request without a Host header. */
  const withHost = (request: Request): Request => {
    const complete = new Request(`http://localhost${request.url}`, request)
    originals.set(complete, request)
    return complete
  }
  return {
    addressOf: (request) => server?.requestIP(originals.get(request) ?? request)?.address ?? unknownAddress,
    listen: (fetch, options) => {
      // Read-only in the types, as in Node; Bun reads it as the limit of its servers.
      Object.assign(http, { maxHeaderSize: maxHeaderBytes })
      const fetchInTurns = serveInTurns(fetch)
      try {
        // In production Bun shares ports by default: a second server would take half of the connections.
        const reusePort = options.reusePort ?? false
        server = Bun.serve({
          hostname: options.hostname,
          port: options.port,
          reusePort,
          fetch: (request) =>
            request.url.charCodeAt(0) === slash && request.headers.get('host') === null
              ? fetchInTurns(withHost(request))
              : fetchInTurns(request),
          idleTimeout: idleTimeoutS,
          maxRequestBodySize: maxBodyBytes,
          ...(options.onFailure && { error: options.onFailure }),
          development: false,
        })
      } catch (error) {
        throw toPortTaken(error, options)
      }
      const running = server
      return {
        port: running.port ?? options.port,
        stop: async (graceMs) => {
          await untilIdle(() => running.pendingRequests, graceMs)
          await running.stop(true)
        },
      }
    },
  }
}

type DenoServer = { addr: { port: number }; shutdown(): Promise<void> }
/** `completed` settles when the body was handed to the socket, the client disconnected, or the handler failed. */
type DenoInfo = { remoteAddr: { hostname?: string }; completed: Promise<void> }
type DenoRuntime = {
  serve(
    options: BoundOptions & { onListen: () => void },
    handler: (request: Request, info: DenoInfo) => Response | Promise<Response>,
  ): DenoServer
}

const denoListener = (runtime: DenoRuntime): BoundListener => {
  const addresses = new WeakMap<Request, string>()
  return {
    addressOf: (request) => addresses.get(request) ?? unknownAddress,
    listen: (fetch, options) => {
      let server: DenoServer
      let pending = 0
      const complete = () => {
        pending -= 1
      }
      try {
        const { hostname, port, reusePort = false } = options
        server = runtime.serve({ hostname, port, reusePort, onListen: () => {} }, (request, info) => {
          addresses.set(request, info.remoteAddr.hostname ?? unknownAddress)
          pending += 1
          info.completed.then(complete, complete)
          return fetch(request)
        })
      } catch (error) {
        throw toPortTaken(error, options)
      }
      return {
        port: server.addr.port,
        stop: async (graceMs) => {
          const endsAtMs = performance.now() + graceMs
          await untilIdle(() => pending, graceMs)
          // `completed` settles before a byte body has been sent, so this waits a moment longer. Remaining responses end with
          // the process: aborting them would throw an error that cannot be caught.
          await Promise.race([server.shutdown(), wait(Math.max(flushMs, endsAtMs - performance.now()))])
        },
      }
    },
  }
}

/** A socket on `::` takes IPv4 connections too. It cannot be opened where the kernel has no IPv6. */
const listenOn = (listener: BoundListener, fetch: Fetch, { hostname, ...options }: ServeOptions): Server => {
  if (hostname !== undefined) return listener.listen(fetch, { ...options, hostname })
  try {
    return listener.listen(fetch, { ...options, hostname: '::' })
  } catch (error) {
    if (error instanceof PortTaken) throw error
    return listener.listen(fetch, { ...options, hostname: '0.0.0.0' })
  }
}

export const createListener = (): Listener => {
  const runtime = (globalThis as { Deno?: DenoRuntime }).Deno
  const listener = runtime === undefined ? bunListener() : denoListener(runtime)
  return { ...listener, listen: (fetch, options) => listenOn(listener, fetch, options) }
}

/**
 * Throws `PortTaken` if any process listens on the port, even with port sharing. The port is released again, so another
 * process can still take it afterwards.
 */
export const requireFreePort = async (options: Pick<ServeOptions, 'hostname' | 'port'>): Promise<void> => {
  const server = createListener().listen(() => new Response(null, { status: 503 }), options)
  await server.stop(0)
}
