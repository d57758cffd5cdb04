import http from 'node:http'

export type Fetch = (request: Request) => Response | Promise<Response>

export type ServeOptions = {
  readonly hostname: string
  readonly port: number
  /** Whether other processes of ours may serve on it too; the system then shares connections out. */
  readonly reusePort?: boolean
}

/**
 * The HTTP server of whichever runtime this is.
 *
 * Promise: `addressOf` is the address of the socket's peer; `stop` goes on serving, so that a load balancer hears that this
 * instance is not ready, until no request is under way or `graceMs` have passed, then cuts the rest. A port that is taken
 * is a `PortTaken`.
 */
export type Server = {
  readonly port: number
  stop(graceMs: number): Promise<void>
}

export type Listener = {
  addressOf(request: Request): string
  listen(fetch: Fetch, options: ServeOptions): Server
}

export class PortTaken extends Error {
  override readonly name = 'PortTaken'
}

/** Room for headers that we want to refuse ourselves, with a problem, rather than have the runtime cut the line. */
const maxHeaderBytes = 128 * 1_024
const idleTimeoutS = 75
const lastAnswersMs = 100

const unknownAddress = '0.0.0.0'

const refusedPort = (error: unknown, { hostname, port }: ServeOptions): unknown => {
  const code = (error as { code?: string; name?: string } | null)?.code ?? (error as Error | null)?.name
  if (code !== 'EADDRINUSE' && code !== 'AddrInUse') return error
  return new PortTaken(`Port ${port} on ${hostname} is taken. Stop what holds it, or set PORT to another one.`)
}

const wait = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

const untilIdle = async (underWay: () => number, graceMs: number) => {
  const endsAtMs = performance.now() + graceMs
  while (underWay() > 0 && performance.now() < endsAtMs) await wait(20)
}

const bunListener = (): Listener => {
  let server: Bun.Server<undefined> | undefined
  return {
    addressOf: (request) => server?.requestIP(request)?.address ?? unknownAddress,
    listen: (fetch, options) => {
      // Typed read-only, as in Node; Bun takes it as the limit of its servers.
      Object.assign(http, { maxHeaderSize: maxHeaderBytes })
      try {
        // Outside of development Bun shares ports unless told not to: a second server would take half of the connections.
        const reusePort = options.reusePort ?? false
        server = Bun.serve({ ...options, reusePort, fetch, idleTimeout: idleTimeoutS, development: false })
      } catch (error) {
        throw refusedPort(error, options)
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
/** `completed` settles when the whole body was handed over, or its client went away, or there was no answer. */
type DenoInfo = { remoteAddr: { hostname?: string }; completed: Promise<void> }
type DenoRuntime = {
  serve(
    options: ServeOptions & { onListen: () => void },
    handler: (request: Request, info: DenoInfo) => Response | Promise<Response>,
  ): DenoServer
}

const denoListener = (runtime: DenoRuntime): Listener => {
  const addresses = new WeakMap<Request, string>()
  return {
    addressOf: (request) => addresses.get(request) ?? unknownAddress,
    listen: (fetch, options) => {
      let server: DenoServer
      let underWay = 0
      const ended = () => {
        underWay -= 1
      }
      try {
        server = runtime.serve({ ...options, onListen: () => {} }, (request, info) => {
          addresses.set(request, info.remoteAddr.hostname ?? unknownAddress)
          underWay += 1
          info.completed.then(ended, ended)
          return fetch(request)
        })
      } catch (error) {
        throw refusedPort(error, options)
      }
      return {
        port: server.addr.port,
        stop: async (graceMs) => {
          const endsAtMs = performance.now() + graceMs
          await untilIdle(() => underWay, graceMs)
          // A body given as bytes is handed over before it is sent. What is under way even at the end ends with the
          // process: aborting it would throw where nobody can catch it.
          await Promise.race([server.shutdown(), wait(Math.max(lastAnswersMs, endsAtMs - performance.now()))])
        },
      }
    },
  }
}

export const createListener = (): Listener => {
  const runtime = (globalThis as { Deno?: DenoRuntime }).Deno
  return runtime === undefined ? bunListener() : denoListener(runtime)
}

/**
 * Throws a `PortTaken` if anybody listens on the port, were it one who would share it with us. It is free again when this
 * resolves, and so may be taken yet.
 */
export const requireFreePort = async (options: { hostname: string; port: number }): Promise<void> => {
  const server = createListener().listen(() => new Response(null, { status: 503 }), options)
  await server.stop(0)
}
