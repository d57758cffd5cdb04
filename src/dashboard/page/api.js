/** A refusal as the service words it (RFC 9457). */
export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail ?? body?.title ?? `The service answered ${status}.`)
    this.status = status
    this.code = body?.code
  }
}

const base = '/api/v1'
/** Before an access token expires. */
const renewAheadMs = 60_000

/** The tokens stay in the memory of the page: to reload it is to sign out. */
let session
let renewal

const send = async (method, path, body, token = session?.access) => {
  const response = await fetch(base + path, {
    method,
    credentials: 'omit',
    headers: {
      ...(token && { authorization: `Bearer ${token}` }),
      ...(body && { 'content-type': 'application/json' }),
    },
    body: body && JSON.stringify(body),
  })
  const answer = response.status === 204 ? undefined : await response.json().catch(() => undefined)
  if (!response.ok) throw new Problem(response.status, answer)
  return { status: response.status, answer }
}

const keep = ({ access_token: access, refresh_token: refresh, expires_in: seconds }) => {
  session = { access, refresh }
  clearTimeout(renewal)
  renewal = setTimeout(renew, Math.max(1_000, seconds * 1_000 - renewAheadMs))
}

const renewRetryMs = 5_000

const renew = async () => {
  const given = session
  const isCurrent = () => session === given
  try {
    const { answer } = await send('POST', '/auth/refresh', { refresh_token: given.refresh }, null)
    if (isCurrent()) keep(answer)
  } catch (error) {
    if (!isCurrent()) return
    if (error instanceof Problem && error.status < 500) document.dispatchEvent(new Event('signed-out'))
    else renewal = setTimeout(renew, renewRetryMs)
  }
}

/** What a person types as a second factor: six digits of an app, or else a recovery code. */
const factorOf = (text) => (/^\d{6}$/.test(text) ? { code: text } : { recovery_code: text })

/** Resolves to a function that takes a second factor, where the account has one. */
export const signIn = async (email, password) => {
  session = undefined
  const { status, answer } = await send('POST', '/auth/login', { email, password })
  if (status !== 202) {
    keep(answer)
    return undefined
  }
  const { sign_in_token } = answer
  return async (factor) =>
    keep((await send('POST', '/auth/login/second-factor', { sign_in_token, ...factorOf(factor) })).answer)
}

export const reauthenticate = async (password, factor) =>
  keep((await send('POST', '/auth/reauthenticate', { password, ...(factor && factorOf(factor)) })).answer)

/** Forgets the session at once, and ends it. */
export const signOut = async () => {
  clearTimeout(renewal)
  const token = session?.access
  session = undefined
  if (token !== undefined) await send('POST', '/auth/logout', undefined, token).catch(() => {})
}

export const get = async (path) => (await send('GET', path)).answer
export const put = async (path, body) => (await send('PUT', path, body)).answer

/**
 * Calls `on(event, data)` for each event of a stream until it ends. EventSource sends no Authorization, so the stream is read by
 * fetch.
 */
export const follow = async (path, signal, on) => {
  const response = await fetch(base + path, {
    signal,
    credentials: 'omit',
    headers: { authorization: `Bearer ${session?.access}` },
  })
  if (!response.ok) throw new Problem(response.status, await response.json().catch(() => undefined))
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let text = ''
  for (;;) {
    const { value, done } = await reader.read()
    if (done) return
    text += value
    const blocks = text.split('\n\n')
    text = blocks.pop()
    for (const block of blocks) {
      const field = (name) => new RegExp(`^${name}: ?(.*)$`, 'm').exec(block)?.[1]
      const [event, data] = [field('event'), field('data')]
      if (event !== undefined && data !== undefined) on(event, JSON.parse(data))
    }
  }
}
