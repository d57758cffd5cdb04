import { createServer } from 'node:http'
import { Redis as Client } from 'ioredis'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { type Api, api, type Person, type Runtime, register, startRedis, startServer } from '../harness.ts'
import type { Document } from '../http/black-box/document.ts'
import { blackBoxEnvironment } from '../http/black-box/driver.ts'
import { type Canaries, createCanaries } from './canaries.ts'
import { type Request, requestsTo } from './requests.ts'

const underWay = 16

/** Secrets of the configuration. The services behind them do not answer, so that their failures are logged too. */
const environmentWith = (canaries: Canaries): Record<string, string> => {
  const plant = (name: string) => canaries.plant('token', `the variable ${name}`)
  return {
    ...blackBoxEnvironment,
    LOG_LEVEL: 'trace',
    SECRET: plant('SECRET'),
    SECRET_PREVIOUS: plant('SECRET_PREVIOUS'),
    SMTP_URL: `smtp://user:${plant('SMTP_URL')}@127.0.0.1:1`,
    MAIL_FROM: 'velro@example.com',
    PUBLIC_URL: 'http://localhost:3000',
    FAL_KEY: plant('FAL_KEY'),
    FAL_QUEUE_URL: 'http://127.0.0.1:1',
    OPENAI_API_KEY: plant('OPENAI_API_KEY'),
    OPENAI_BASE_URL: 'http://127.0.0.1:1',
    GITHUB_CLIENT_ID: 'id',
    GITHUB_CLIENT_SECRET: plant('GITHUB_CLIENT_SECRET'),
    GITHUB_BASE_URL: 'http://127.0.0.1:1',
    RETURN_TO_URLS: 'http://localhost:3000/back',
    JOB_CONCURRENCY: '1',
    SIEM_AUTHORIZATION: `Bearer ${plant('SIEM_AUTHORIZATION')}`,
  }
}

/** A receiver of security events, which keeps their text. */
const startSiem = async () => {
  let received = ''
  const server = createServer((request, response) => {
    request.setEncoding('utf8')
    request.on('data', (chunk) => {
      received += chunk
    })
    request.on('end', () => response.end())
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  return { url: `http://127.0.0.1:${port}/`, received: () => received, stop: () => server.close() }
}

/** Every row of every table as text; bytes are hexadecimal. */
const dumpOf = async (sql: Sql): Promise<string> => {
  const tables = await sql<{ name: string }[]>`
    select c.relname as name from pg_class c
     where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'm') and not c.relispartition`
  const texts = tables.map(async ({ name }) => {
    const rows = await sql<{ text: string }[]>`select t::text as text from ${sql(name)} t`
    return rows.map(({ text }) => `${name} ${text}`).join('\n')
  })
  return (await Promise.all(texts)).join('\n')
}

const readRedis = async (client: Client): Promise<string> => {
  const texts = (await client.keys('*')).map(async (name) => {
    const read = {
      hash: () => client.hgetall(name),
      zset: () => client.zrange(name, '0', '-1'),
      set: () => client.smembers(name),
      list: () => client.lrange(name, 0, -1),
      stream: () => client.xrange(name, '-', '+'),
      string: () => client.get(name),
    }
    const type = (await client.type(name)) as keyof typeof read | 'none'
    return type === 'none' ? '' : `${name} ${JSON.stringify(await read[type]())}`
  })
  return (await Promise.all(texts)).join('\n')
}

type Sent = { readonly status: number; readonly text: string }

const send = async (baseUrl: string, { method, target, headers, body }: Request): Promise<Sent> => {
  const response = await fetch(baseUrl + target, {
    method,
    headers,
    redirect: 'manual',
    ...(body !== undefined && { body }),
  })
  const fields = JSON.stringify([...response.headers])
  // A stream does not end by itself.
  if (response.headers.get('content-type')?.startsWith('text/event-stream')) {
    await response.body?.cancel()
    return { status: response.status, text: fields }
  }
  return { status: response.status, text: `${fields}\n${await response.text()}` }
}

export type Findings = {
  readonly requests: number
  readonly canaries: number
  readonly statuses: Readonly<Record<number, number>>
  /** Security events that the SIEM received. */
  readonly events: number
  /** Where which secrets were found: the place, and what had been sent how. */
  readonly leaks: readonly string[]
}

/** Without what a client gets back as it sent it, and no one else: the path of its request, in `instance` of a problem. */
const withoutEchoes = (text: string) => text.replace(/"instance":"[^"]*"/, '')

/** Issued tokens, which are as secret as what clients send, and which their own answer holds. */
const signIn = async (http: Api, canaries: Canaries): Promise<Person> => {
  const password = canaries.plant('password', 'the password of an account')
  const person = await register(http, { password })
  canaries.add(person.token, 'the access token of an account')
  canaries.add(person.token.split('.')[2] ?? '', 'the signature of an access token')
  canaries.add(person.refreshToken, 'the refresh token of an account')
  return person
}

/** What people do with their secrets, and gets them right. */
const useSecrets = async (http: Api, canaries: Canaries, operator: Person): Promise<number> => {
  const { email, password, token, refreshToken } = await signIn(http, canaries)
  const next = canaries.plant('password', 'a new password')
  const keep = (body: Record<string, unknown> | undefined) => {
    for (const name of ['access_token', 'refresh_token', 'device_token', 'secret', 'key']) {
      const value = body?.[name]
      if (typeof value === 'string') canaries.add(value, `${name} of an answer`)
    }
    for (const [, secret = ''] of `${body?.['url'] ?? ''} ${body?.['otpauth_url'] ?? ''}`.matchAll(
      /[?&](?:signature|share|secret)=([^&\s]+)/g,
    ))
      canaries.add(secret, 'the secret in a URL of an answer')
    return body
  }
  const steps: readonly (() => Promise<{ body: Record<string, unknown> | undefined }>)[] = [
    () => http.post('/api/v1/auth/login', { email, password }),
    () => http.post('/api/v1/auth/login', { email, password: canaries.plant('password', 'a wrong password') }),
    () => http.post('/api/v1/auth/refresh', { refresh_token: refreshToken }),
    () => http.post('/api/v1/auth/password', { current_password: password, new_password: next }, { token }),
    () => http.post('/api/v1/auth/login', { email, password: next }),
    () => http.post('/api/v1/auth/password-reset', { email }),
    () => http.post('/api/v1/auth/totp', undefined, { token }),
    () => http.post('/api/v1/service-keys', { name: 'k', scopes: ['authorization:check'] }, { token: operator.token }),
    () => http.post('/api/v1/auth/stream-ticket', undefined, { token }),
    () => http.post('/api/v1/auth/reauthenticate', { password: next }, { token }),
  ]
  for (const step of steps) keep((await step()).body)
  return steps.length
}

/**
 * Sends at least `least` requests with canaries to the routes of a server, in rounds over every `everyNth` of them, and looks for them in its output, in its answers, in its
 * metrics, in Postgres and in Redis.
 */
export const runStorm = async (
  runtime: Runtime,
  { least, everyNth = 1 }: { readonly least: number; readonly everyNth?: number },
): Promise<Findings> => {
  const canaries = createCanaries()
  const redisPassword = canaries.plant('token', 'the password of Redis')
  const redis = await startRedis({ flags: ['--requirepass', redisPassword] })
  const redisUrl = redis.url.replace('redis://', `redis://:${redisPassword}@`)
  const siem = await startSiem()
  const env = { ...environmentWith(canaries), REDIS_URL: redisUrl, SIEM_URL: siem.url }
  const server = await startServer({ runtime, env })
  const sql = connectOnce(server.connection)
  const client = new Client(redisUrl)
  const http = api(server.baseUrl)
  const leaks: string[] = []
  const statuses: Record<number, number> = {}
  let [requests, considered] = [0, 0]
  try {
    const newOperator = async () => {
      const made = await signIn(http, canaries)
      await sql`update users set role = 'admin' where id = ${made.id}`
      await until(async () => (await http.get('/api/v1/users', { token: made.token })).status === 200, 'an operator')
      return made
    }
    let operator = await newOperator()
    let person = await signIn(http, canaries)
    const document = (await http.get('/docs/json')).body as Document
    let turn = 0
    const token = () => {
      turn += 1
      return turn % 2 === 0 ? operator.token : person.token
    }
    /** Requests end sessions and close accounts. */
    let renewing: Promise<void> | undefined
    const renew = () => {
      const make = async () => {
        operator = await newOperator()
        person = await signIn(http, canaries)
      }
      renewing ??= make().finally(() => {
        renewing = undefined
      })
      return renewing
    }
    const look = (where: string, text: string) => {
      for (const what of canaries.leaksIn(text)) leaks.push(`${where}: ${what}`)
    }
    const work = async (source: Generator<Request>) => {
      for (const request of source) {
        considered += 1
        if (considered % everyNth !== 0) continue
        // A connection that the server ends has no answer: status 0.
        const sent = await send(server.baseUrl, request).catch(() => ({ status: 0, text: '' }))
        requests += 1
        statuses[sent.status] = (statuses[sent.status] ?? 0) + 1
        if (request.isSignedIn && sent.status === 401) await renew()
        look(`the answer ${sent.status} to ${request.what}`, withoutEchoes(sent.text))
      }
    }
    while (requests < least) {
      requests += await useSecrets(http, canaries, operator)
      const source = requestsTo(document, { canaries, token })
      await Promise.all(Array.from({ length: underWay }, () => work(source)))
    }
    for (const path of [
      '/metrics',
      '/ready',
      '/api/v1/performance/metrics',
      '/api/v1/security/limits',
      '/api/v1/users',
    ])
      look(
        path,
        await (await fetch(server.baseUrl + path, { headers: { authorization: `Bearer ${operator.token}` } })).text(),
      )
    const isSent = async () =>
      (await sql`select from audit_links`).length === (siem.received().match(/\n/g) ?? []).length
    await until(isSent, 'the security events are sent')
    look('the SIEM', siem.received())
    look('Postgres', await dumpOf(sql))
    look('Redis', await readRedis(client))
    await server.kill('SIGTERM')
    look('the log', server.output())
    const events = (siem.received().match(/\n/g) ?? []).length
    return { requests, canaries: canaries.count, statuses, events, leaks: [...new Set(leaks)] }
  } finally {
    client.disconnect()
    await sql.end()
    await server.stop()
    await redis.stop()
    siem.stop()
  }
}
