import { randomBytes } from 'node:crypto'

export type Answer = {
  status: number
  headers: Headers
  /** Parsed if it is JSON, else the text; undefined if empty. */
  // biome-ignore lint/suspicious/noExplicitAny: tests read responses of every shape
  body: any
}

export type Sending = { token?: string; headers?: Record<string, string> }

const isRaw = (body: unknown): body is string | Uint8Array<ArrayBuffer> =>
  typeof body === 'string' || body instanceof Uint8Array

const send = async (url: string, method: string, body: unknown, { token, headers }: Sending = {}): Promise<Answer> => {
  const response = await fetch(url, {
    method,
    redirect: 'manual',
    headers: {
      ...(body !== undefined && { 'content-type': 'application/json' }),
      ...(token !== undefined && { authorization: `Bearer ${token}` }),
      ...headers,
    },
    ...(body !== undefined && { body: isRaw(body) ? body : JSON.stringify(body) }),
  })
  const text = await response.text()
  const isJson = /^application\/(\w+\+)?json/.test(response.headers.get('content-type') ?? '')
  return {
    status: response.status,
    headers: response.headers,
    body: text === '' ? undefined : isJson ? JSON.parse(text) : text,
  }
}

/** A plain client: paths from the root, JSON in and out, no retries. Strings and bytes are sent unchanged. */
export const api = (baseUrl: string) => ({
  get: (path: string, sending?: Sending) => send(baseUrl + path, 'GET', undefined, sending),
  post: (path: string, body?: unknown, sending?: Sending) => send(baseUrl + path, 'POST', body, sending),
  put: (path: string, body?: unknown, sending?: Sending) => send(baseUrl + path, 'PUT', body, sending),
  patch: (path: string, body?: unknown, sending?: Sending) => send(baseUrl + path, 'PATCH', body, sending),
  delete: (path: string, sending?: Sending) => send(baseUrl + path, 'DELETE', undefined, sending),
})

export type Api = ReturnType<typeof api>

export type Person = {
  email: string
  password: string
  /** The access token. */
  token: string
  refreshToken: string
  id: string
  // biome-ignore lint/suspicious/noExplicitAny: as sent
  user: any
}

const registrationTries = 5

/** Registers a new account, which signs it in. Tries again where a loaded machine took longer than the deadline of a request. */
export const register = async (
  client: Api,
  overrides: { email?: string; password?: string; display_name?: string } = {},
  triesLeft = registrationTries,
): Promise<Person> => {
  const given = {
    email: `person-${randomBytes(6).toString('hex')}@example.com`,
    password: 'seven green bottles hanging',
    ...overrides,
  }
  const { status, body } = await client.post('/api/v1/auth/register', given)
  if (body?.code === 'request.timeout' && triesLeft > 1) return register(client, overrides, triesLeft - 1)
  if (status !== 201) throw new Error(`Registration answered ${status}: ${JSON.stringify(body)}`)
  return {
    email: given.email,
    password: given.password,
    token: body.access_token,
    refreshToken: body.refresh_token,
    id: body.user.id,
    user: body.user,
  }
}
