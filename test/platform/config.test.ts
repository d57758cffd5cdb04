import { describe, expect, test } from 'bun:test'
import { ConfigRefused, parseConfig } from '../../src/config.ts'

const problemsOf = (env: Record<string, string>): readonly string[] => {
  try {
    parseConfig(env)
  } catch (error) {
    if (error instanceof ConfigRefused) return error.problems
    throw error
  }
  return []
}

test('nothing at all is enough, and means the embedded database', () => {
  const config = parseConfig({})
  expect(config).toMatchObject({
    host: '0.0.0.0',
    port: 3000,
    databaseUrl: undefined,
    dataDirectory: '.velro',
    secret: undefined,
    corsOrigins: [],
    trustedProxies: [],
    l1MaxEntries: 10_000,
    l1TtlMs: 60_000,
    accessTokenTtlMs: 900_000,
    requestTimeoutMs: 5_000,
    logLevel: 'info',
  })
  expect(config.hashWorkers).toBeGreaterThanOrEqual(1)
})

test('every variable is read, trimmed, and turned into milliseconds where it is a time', () => {
  const secret = 'x'.repeat(32)
  expect(
    parseConfig({
      HOST: ' ::1 ',
      PORT: '8080',
      DATABASE_URL: 'postgresql://db/velro',
      DATA_DIR: '/data',
      DB_CONNECTIONS: '40',
      SECRET: secret,
      TOKEN_ISSUER: 'https://issuer',
      TOKEN_AUDIENCE: 'api',
      CORS_ORIGINS: 'https://a.example, http://localhost:5173 ,',
      TRUSTED_PROXIES: '10.0.0.1,2001:db8::1',
      HASH_WORKERS: '2',
      HASH_QUEUE: '5',
      L1_MAX_ENTRIES: '500',
      L1_TTL_SECONDS: '30',
      ACCESS_TOKEN_SECONDS: '60',
      REQUEST_TIMEOUT_MS: '2500',
      DRAIN_SECONDS: '0',
      LOG_LEVEL: 'warn',
      PUBLIC_URL: 'https://api.example.com',
    }),
  ).toEqual({
    host: '::1',
    port: 8080,
    databaseUrl: 'postgresql://db/velro',
    dataDirectory: '/data',
    publicUrl: 'https://api.example.com',
    dbConnections: 40,
    secret,
    issuer: 'https://issuer',
    audience: 'api',
    corsOrigins: ['https://a.example', 'http://localhost:5173'],
    trustedProxies: ['10.0.0.1', '2001:db8::1'],
    hashWorkers: 2,
    hashQueue: 5,
    l1MaxEntries: 500,
    l1TtlMs: 30_000,
    accessTokenTtlMs: 60_000,
    requestTimeoutMs: 2_500,
    drainMs: 0,
    logLevel: 'warn',
  })
})

test('an empty variable counts as unset', () => {
  expect(parseConfig({ PORT: '', SECRET: ' ', DATABASE_URL: '', LOG_LEVEL: '', CORS_ORIGINS: '' })).toEqual(
    parseConfig({}),
  )
})

test('the value cannot be changed afterwards', () => {
  const config = parseConfig({ CORS_ORIGINS: 'https://a.example' })
  expect(Object.isFrozen(config)).toBe(true)
  expect(Object.isFrozen(config.corsOrigins)).toBe(true)
})

describe('what is wrong', () => {
  test('is told all at once, each problem with the name of its variable', () => {
    const problems = problemsOf({
      PORT: 'http',
      DATABASE_URL: 'mysql://db',
      SECRET: 'short',
      DB_CONNECTIONS: '5',
      CORS_ORIGINS: 'https://a.example/,*',
      TRUSTED_PROXIES: 'proxy.example',
      HASH_WORKERS: '0',
      L1_TTL_SECONDS: '1.5',
      REQUEST_TIMEOUT_MS: '1e99',
      LOG_LEVEL: 'loud',
    })
    const names = ['PORT', 'DATABASE_URL', 'SECRET', 'DB_CONNECTIONS', 'CORS_ORIGINS', 'TRUSTED_PROXIES']
    for (const name of [...names, 'HASH_WORKERS', 'L1_TTL_SECONDS', 'REQUEST_TIMEOUT_MS', 'LOG_LEVEL']) {
      expect(problems.filter((problem) => problem.startsWith(`${name} `)).length).toBe(name === 'CORS_ORIGINS' ? 2 : 1)
    }
    expect(problems.length).toBe(11)
  })

  test('is in the message too, a line each', () => {
    expect(() => parseConfig({ PORT: '-1', LOG_LEVEL: 'loud' })).toThrow(/\n {2}- PORT .*\n {2}- LOG_LEVEL /)
  })

  test('a database of one’s own needs a secret, and the secret itself is never repeated', () => {
    expect(problemsOf({ DATABASE_URL: 'postgres://db/velro' })).toEqual([expect.stringMatching(/^SECRET must be set/)])
    expect(problemsOf({ DATABASE_URL: 'postgres://db/velro', SECRET: 'hunter2' }).join()).not.toContain('hunter2')
    expect(problemsOf({ DATABASE_URL: 'mysql://me:hunter2@db' }).join()).not.toContain('hunter2')
  })
})
