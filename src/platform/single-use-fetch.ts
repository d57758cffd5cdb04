/** No connection could be opened, so the request was certainly not sent. */
export class NotConnected extends Error {
  override readonly name = 'NotConnected'
}

/** Bun's codes of failures before the first byte was sent: no address, no socket, a certificate that is refused. */
const bunCodes = /^(?:ECONNREFUSED|ENOTFOUND|EAI_AGAIN|CERT_|ERR_TLS_CERT_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_)/
/** Deno names the stage of a failure in a message alone. */
const denoMessage = /client error \(Connect\)/

const isNotConnected = (error: unknown): boolean => {
  if (!(error instanceof Error)) return false
  const code = 'code' in error && typeof error.code === 'string' ? error.code : ''
  return bunCodes.test(code) || denoMessage.test(error.message) || isNotConnected(error.cause)
}

type DenoRuntime = { createHttpClient(options: { poolMaxIdlePerHost: number; http2: boolean }): object }

const singleUse = (): object => {
  const deno = (globalThis as { Deno?: DenoRuntime }).Deno
  return deno === undefined
    ? { keepalive: false }
    : { client: deno.createHttpClient({ poolMaxIdlePerHost: 0, http2: false }) }
}

let options: object | undefined

/**
 * A fetch for requests that must not be sent twice, such as paid orders. Each has a new connection.
 *
 * Guarantee: the request is sent at most once. On a connection that was used before the runtimes cannot tell a request that
 * was lost from one that the server has carried out, and Deno then sends even a POST again by itself. Rejects with
 * `NotConnected` where the request was certainly not sent; after any other error it may have been carried out.
 */
export const singleUseFetch = async (url: string, init: RequestInit): Promise<Response> => {
  options ??= singleUse()
  try {
    return await fetch(url, { ...init, ...options })
  } catch (error) {
    throw isNotConnected(error) ? new NotConnected('No connection could be opened', { cause: error }) : error
  }
}
