import { describe, expect, test } from 'bun:test'
import { ConfigRefused, parseConfig } from '../../src/config.ts'
import { defaultPolicy } from '../../src/limits/policy.ts'
import { defaultTexts } from '../../src/mail/texts.ts'

const problemsOf = (env: Record<string, string>): readonly string[] => {
  try {
    parseConfig(env)
  } catch (error) {
    if (error instanceof ConfigRefused) return error.problems
    throw error
  }
  return []
}

test('an empty environment is valid and means the embedded database', () => {
  const config = parseConfig({})
  expect(config).toMatchObject({
    host: undefined,
    port: 3000,
    processes: 1,
    databaseUrl: undefined,
    redisUrl: undefined,
    dataDirectory: '.velro',
    mediaDirectory: '.velro/media',
    s3: undefined,
    secret: undefined,
    adminEmail: undefined,
    corsOrigins: [],
    authzenAliases: [],
    trustedProxies: [],
    securityContext: 'monitor',
    securityContextRollout: 100,
    geoipCountryFile: undefined,
    geoipSystemFile: undefined,
    l1MaxEntries: 10_000,
    l1TtlMs: 60_000,
    welcomeCredits: 1_000,
    welcomeAfter: 'registration',
    welcomeAccountsPerAddress: 0,
    accessTokenTtlMs: 900_000,
    auditRetentionMs: 400 * 86_400_000,
    requestTimeoutMs: 5_000,
    falKey: undefined,
    falQueueUrl: 'https://queue.fal.run',
    falOutputHosts: ['fal.media'],
    openaiKey: undefined,
    openaiBaseUrl: 'https://api.openai.com/v1',
    openaiOutputHosts: [],
    webhookInternalHosts: [],
    logLevel: 'info',
    accessLogEvery: 100,
  })
  expect(config).toMatchObject({ passwordMinLength: 8, passwordWords: [], passwordBreachUrl: undefined })
  expect(config.hashWorkers).toBeGreaterThanOrEqual(1)
  expect(config.renderWorkers).toBeGreaterThanOrEqual(1)
  expect(parseConfig({ DATA_DIR: '/data' }).mediaDirectory).toBe('/data/media')
})

test('every variable is read and trimmed, and a duration is converted to milliseconds', () => {
  const secret = 'x'.repeat(32)
  const id = '01890000-0000-7000-8000-000000000000'
  expect(
    parseConfig({
      HOST: ' ::1 ',
      PORT: '8080',
      WEB_CONCURRENCY: '4',
      DATABASE_URL: 'postgresql://db/velro',
      REDIS_URL: ' rediss://velro:p%40ss@redis:6380/2',
      DATA_DIR: '/data',
      DB_CONNECTIONS: '40',
      SECRET: secret,
      SECRET_PREVIOUS: ` ${'y'.repeat(32)} `,
      ADMIN_EMAIL: ' Ada@Example.com ',
      TOKEN_ISSUER: 'https://issuer',
      TOKEN_AUDIENCE: 'api',
      CORS_ORIGINS: 'https://a.example, http://localhost:5173 ,',
      PASSKEY_DOMAIN: 'a.example',
      SERVICE_NAME: 'Studio',
      TRUSTED_PROXIES: '10.0.0.1,2001:db8::1',
      AUTHZEN_ALIASES: `user:alice=user:${id}, record:r-1:a=project:${id}`,
      LIMITS: 'monitor',
      SECURITY_CONTEXT: 'enforce',
      SECURITY_CONTEXT_ROLLOUT: '25',
      GEOIP_COUNTRY_DB: '/geo/countries.mmdb',
      GEOIP_ASN_DB: '/geo/systems.mmdb',
      ANOMALY: 'enforce',
      LIMIT_API_FREE: '240',
      HASH_WORKERS: '2',
      HASH_QUEUE: '5',
      PASSWORD_MIN_LENGTH: '15',
      PASSWORD_WORDS: 'Lighthouse, harbour',
      PASSWORD_BREACH_URL: 'https://api.pwnedpasswords.com/range/',
      RENDER_WORKERS: '3',
      RENDER_QUEUE: '6',
      JOB_CONCURRENCY: '0',
      GENERATION_TIMEOUT_SECONDS: '90',
      MEDIA_DIR: '/media',
      S3_ENDPOINT: 'http://minio:9000',
      S3_REGION: 'eu-central-1',
      S3_BUCKET: 'velro-media',
      S3_ACCESS_KEY_ID: 'id',
      S3_SECRET_ACCESS_KEY: 'key',
      L1_MAX_ENTRIES: '500',
      L1_MAX_MEGABYTES: '2',
      L1_TTL_SECONDS: '30',
      DATABASE_BUS_URL: 'postgres://direct/velro',
      ACKNOWLEDGEMENTS: 'off',
      EMERGENCY_READ_SECONDS: '7',
      WELCOME_CREDITS: '0',
      ACCESS_TOKEN_SECONDS: '60',
      REQUEST_TIMEOUT_MS: '2500',
      AUDIT_RETENTION_DAYS: '90',
      DRAIN_DELAY_SECONDS: '15',
      DRAIN_SECONDS: '0',
      LOG_LEVEL: 'warn',
      ACCESS_LOG_EVERY: '1',
      PUBLIC_URL: 'https://api.example.com',
      RETURN_TO_URLS: 'https://app.example.com/signed-in, com.example.app:/signed-in',
      GOOGLE_CLIENT_ID: 'velro',
      GOOGLE_CLIENT_SECRET: 'hush',
      COOKIE_SAME_SITE: 'none',
      FAL_KEY: ' id:secret ',
      FAL_QUEUE_URL: 'https://queue.example.com/',
      FAL_OUTPUT_HOSTS: 'fal.media, files.example.com',
      OPENAI_API_KEY: 'sk-secret',
      OPENAI_BASE_URL: 'http://localhost:8000/v1/',
      OPENAI_OUTPUT_HOSTS: 'images.example.com',
      WEBHOOK_INTERNAL_HOSTS: 'billing.internal:8080, 10.0.0.7:80,[::1]:9000',
      SMTP_URL: 'smtps://mail.example.com',
      SIEM_URL: 'https://siem.example.com/events?index=velro',
      SIEM_AUTHORIZATION: 'Splunk 1234',
      SIEM_CA_FILE: '/etc/ssl/ca.pem',
      MAIL_FROM: 'no-reply@example.com',
      REQUIRE_VERIFIED_EMAIL: 'on',
    }),
  ).toEqual({
    host: '::1',
    port: 8080,
    processes: 4,
    databaseUrl: 'postgresql://db/velro',
    redisUrl: 'rediss://velro:p%40ss@redis:6380/2',
    dataDirectory: '/data',
    publicUrl: 'https://api.example.com',
    dbConnections: 40,
    secret,
    previousSecret: 'y'.repeat(32),
    adminEmail: 'ada@example.com',
    issuer: 'https://issuer',
    audience: 'api',
    corsOrigins: ['https://a.example', 'http://localhost:5173'],
    returnTo: ['https://app.example.com/signed-in', 'com.example.app:/signed-in'],
    identityProviders: [
      {
        id: 'google',
        name: 'Google',
        kind: 'openid',
        issuer: 'https://accounts.google.com',
        clientId: 'velro',
        clientSecret: 'hush',
        apiUrl: undefined,
        reauthenticationPrompt: 'select_account',
      },
    ],
    cookieSameSite: 'none',
    passkeys: { id: 'a.example', origins: ['https://a.example'] },
    serviceName: 'Studio',
    authzenAliases: [
      { type: 'user', id: 'alice', target: { type: 'user', id } },
      { type: 'record', id: 'r-1:a', target: { type: 'project', id } },
    ],
    trustedProxies: ['10.0.0.1', '2001:db8::1'],
    limits: 'monitor',
    securityContext: 'enforce',
    securityContextRollout: 25,
    geoipCountryFile: '/geo/countries.mmdb',
    geoipSystemFile: '/geo/systems.mmdb',
    anomaly: 'enforce',
    policy: {
      ...defaultPolicy,
      budgets: { ...defaultPolicy.budgets, api: { ...defaultPolicy.budgets.api, free: 240 } },
    },
    hashWorkers: 2,
    hashQueue: 5,
    passwordMinLength: 15,
    passwordWords: ['Lighthouse', 'harbour'],
    passwordBreachUrl: 'https://api.pwnedpasswords.com/range',
    renderWorkers: 3,
    renderQueue: 6,
    jobConcurrency: 0,
    generationTimeoutMs: 90_000,
    mediaDirectory: '/media',
    s3: {
      endpoint: 'http://minio:9000',
      region: 'eu-central-1',
      bucket: 'velro-media',
      accessKeyId: 'id',
      secretAccessKey: 'key',
    },
    l1MaxEntries: 500,
    l1MaxBytes: 2_097_152,
    l1TtlMs: 30_000,
    databaseBusUrl: 'postgres://direct/velro',
    acknowledgements: 'off',
    staleReadMs: 7_000,
    welcomeCredits: 0,
    welcomeAfter: 'verification',
    welcomeAccountsPerAddress: 5,
    accessTokenTtlMs: 60_000,
    requestTimeoutMs: 2_500,
    auditRetentionMs: 90 * 86_400_000,
    falKey: 'id:secret',
    falQueueUrl: 'https://queue.example.com',
    falOutputHosts: ['fal.media', 'files.example.com'],
    openaiKey: 'sk-secret',
    openaiBaseUrl: 'http://localhost:8000/v1',
    openaiOutputHosts: ['images.example.com'],
    webhookInternalHosts: ['billing.internal:8080', '10.0.0.7:80', '[::1]:9000'],
    mail: {
      server: {
        host: 'mail.example.com',
        port: 465,
        tls: 'implicit',
        user: undefined,
        password: undefined,
        ca: undefined,
      },
      from: { name: '', address: 'no-reply@example.com' },
      texts: defaultTexts,
      links: expect.objectContaining({ password_reset: 'https://api.example.com/account/reset-password#{token}' }),
    },
    siem: {
      kind: 'https',
      url: 'https://siem.example.com/events?index=velro',
      authorization: 'Splunk 1234',
      caFile: '/etc/ssl/ca.pem',
    },
    requireVerifiedEmail: true,
    drainDelayMs: 15_000,
    drainMs: 0,
    logLevel: 'warn',
    accessLogEvery: 1,
    notes: [],
  })
})

test('an empty variable counts as unset', () => {
  expect(
    parseConfig({ PORT: '', SECRET: ' ', DATABASE_URL: '', REDIS_URL: '', LOG_LEVEL: '', CORS_ORIGINS: '' }),
  ).toEqual(parseConfig({}))
})

test('the configuration is frozen', () => {
  const config = parseConfig({ CORS_ORIGINS: 'https://a.example' })
  expect(Object.isFrozen(config)).toBe(true)
  expect(Object.isFrozen(config.corsOrigins)).toBe(true)
})

describe('an invalid configuration', () => {
  test('reports all its problems at once, each with the name of its variable', () => {
    const problems = problemsOf({
      PORT: 'http',
      DATABASE_URL: 'mysql://db',
      REDIS_URL: 'http://redis',
      SECRET: 'short',
      ADMIN_EMAIL: 'ada',
      DB_CONNECTIONS: '5',
      CORS_ORIGINS: 'https://a.example/,*',
      TRUSTED_PROXIES: 'proxy.example',
      HASH_WORKERS: '0',
      L1_TTL_SECONDS: '1.5',
      WELCOME_CREDITS: '-1',
      REQUEST_TIMEOUT_MS: '1e99',
      LOG_LEVEL: 'loud',
    })
    const names = [
      'PORT',
      'DATABASE_URL',
      'REDIS_URL',
      'SECRET',
      'ADMIN_EMAIL',
      'DB_CONNECTIONS',
      'CORS_ORIGINS',
      'TRUSTED_PROXIES',
      'WELCOME_CREDITS',
    ]
    for (const name of [...names, 'HASH_WORKERS', 'L1_TTL_SECONDS', 'REQUEST_TIMEOUT_MS', 'LOG_LEVEL']) {
      expect(problems.filter((problem) => problem.startsWith(`${name} `)).length).toBe(name === 'CORS_ORIGINS' ? 2 : 1)
    }
    expect(problems.length).toBe(14)
  })

  test('names the least length, a word and the service of breached passwords that are not valid', () => {
    expect(
      problemsOf({
        PASSWORD_MIN_LENGTH: '7',
        PASSWORD_WORDS: 'velro,ab',
        PASSWORD_BREACH_URL: 'https://a.example/range?x=1',
      }),
    ).toEqual([
      'PASSWORD_MIN_LENGTH must be a whole number from 8 to 64, not "7"',
      'PASSWORD_WORDS holds "ab", which is not a word of 3 to 64 characters',
      'PASSWORD_BREACH_URL must be an http or https URL without a query or a fragment',
    ])
  })

  test('accepts proxies by address in any spelling, by range, or by their number alone', () => {
    for (const item of [
      'face',
      '...',
      '999.1.1.1',
      '10.0.0.0/33',
      '10.0.0.0/0',
      '17',
      '10.0.0.1:80',
      '[::1]',
      '1::2::3',
      'fe80::1%eth0',
    ]) {
      expect(problemsOf({ TRUSTED_PROXIES: `10.0.0.1,${item}` })).toEqual([
        `TRUSTED_PROXIES holds "${item}", which is not an IP address, a range such as 10.0.0.0/8, or a number of proxies from 1 to 16`,
      ])
    }
    const proxies = ['10.0.0.1', '2001:0db8::1', '0:0:0:0:0:0:0:1', '::FFFF:10.0.0.2', '100.64.0.0/10', 'fd00::/8']
    expect(parseConfig({ TRUSTED_PROXIES: proxies.join() }).trustedProxies).toEqual(proxies)
    expect(parseConfig({ TRUSTED_PROXIES: '2' }).trustedProxies).toEqual(['2'])
    expect(problemsOf({ TRUSTED_PROXIES: '2,10.0.0.1' })).toEqual([
      'TRUSTED_PROXIES must be one number of proxies, or addresses and ranges, not both',
    ])
  })

  test('accepts an alias of AuthZEN that names one of our ids, once for each type', () => {
    const id = '01890000-0000-7000-8000-000000000000'
    for (const item of [
      'alice',
      'user:alice',
      `user:=user:${id}`,
      `user:alice=user:${id.toUpperCase()}x`,
      'user:alice=user:alice',
      `user:alice=team:${id}`,
      `user:alice=project:${id}`,
      `record:alice=user:${id}`,
      `project:lab=generation:${id}`,
      `Record:lab=project:${id}`,
      `user:${id}=user:${id}`,
      `user:${id.toUpperCase()}=user:${id}`,
    ]) {
      expect([item, problemsOf({ AUTHZEN_ALIASES: item })]).toEqual([
        item,
        [expect.stringMatching(/^AUTHZEN_ALIASES holds ".*", which is not an alias such as /)],
      ])
    }
    const other = id.replace('7000', '7001')
    expect(problemsOf({ AUTHZEN_ALIASES: `user:a=user:${id},user:a=user:${other}` })).toEqual([
      'AUTHZEN_ALIASES must hold each alias of a type once, but holds user:a twice',
    ])
    expect(problemsOf({ AUTHZEN_ALIASES: `user:a=user:${id},user:b=user:${id}` })).toEqual([
      `AUTHZEN_ALIASES must hold each target of a type once, but holds user:${id} twice`,
    ])
    const many = Array.from({ length: 201 }, (_, at) => `record:${at}=project:${id.slice(0, -4)}${1_000 + at}`)
    expect(problemsOf({ AUTHZEN_ALIASES: many.join() })).toEqual(['AUTHZEN_ALIASES must hold at most 200 aliases'])
    expect(parseConfig({ AUTHZEN_ALIASES: many.slice(1).join() }).authzenAliases).toHaveLength(200)
    const twoTypes = `record:a=project:${id},file:a=project:${id},project:a=project:${id}`
    expect(parseConfig({ AUTHZEN_ALIASES: twoTypes }).authzenAliases).toHaveLength(3)
  })

  test('lists its problems in the message, one per line', () => {
    expect(() => parseConfig({ PORT: '-1', LOG_LEVEL: 'loud' })).toThrow(/\n {2}- PORT .*\n {2}- LOG_LEVEL /)
  })

  test('refuses a Redis URL that the driver would read in part or not at all, and does not repeat it', () => {
    for (const url of ['redis:6379', 'redis://', 'redis://:hunter2@[::1', 'redis://:hunter2@redis:99999']) {
      expect(problemsOf({ REDIS_URL: url })).toEqual([expect.stringMatching(/^REDIS_URL must /)])
    }
    for (const url of ['redis://:hunter2%@redis', 'redis://redis/cache', 'redis://redis/1/2', 'REDISS://redis']) {
      expect(problemsOf({ REDIS_URL: url })).toEqual([expect.stringMatching(/^REDIS_URL must /)])
    }
    expect(problemsOf({ REDIS_URL: 'http://:hunter2@redis' }).join()).not.toContain('hunter2')
    for (const url of ['redis://redis', 'redis://:hunter2@10.0.0.1:6379/', 'rediss://[::1]:1/15?family=0']) {
      expect(parseConfig({ REDIS_URL: url }).redisUrl).toBe(url)
    }
  })

  for (const name of ['DATABASE_URL', 'DATABASE_BUS_URL']) {
    const secret = 'x'.repeat(32)

    test(`refuses a ${name} that could be misread, and repeats no part of it`, () => {
      for (const url of [
        'velro:hunter2@base/rows',
        'postgres://',
        'POSTGRES://velro:hunter2@base/rows',
        'postgres://velro:hun/ter2@base/rows',
        'postgres://velro:hun?ter2@base/rows',
        'postgres://velro:hun#ter2@base/rows',
        'postgres://velro:12/ter2@base/rows',
        'postgres://velro:12?ter2@base/rows',
        'postgres://velro:12#ter2@base/rows',
        'postgres://velro:hun@12/ter2@base/rows',
        'postgres://velro:hun%ter2@base/rows',
        'postgres://velro%:41hunter2@base/rows',
        'postgres://velro:hun@ter%2@base/rows',
        'postgres://velro:hunter2@base%/rows',
        'postgres://velro:hunter2@base:rows',
        'postgres://velro:hunter2@base,base2:x/rows',
        'postgres://velro:hunter2@[::1/rows',
        'postgres://velro:hunter2@base/rows#hunter2',
      ]) {
        const problems = problemsOf({ [name]: url, SECRET: secret })
        expect([url, problems]).toEqual([
          url,
          [expect.stringMatching(new RegExp(`^${name} must be a URL .* percent-encode `))],
        ])
        expect(problems.join()).not.toMatch(/velro|hun|ter|2|base|rows|99|41/)
      }
    })

    test(`does not include a ${name} that is read as intended`, () => {
      for (const url of [
        'postgres://base',
        'postgres:///rows',
        'postgres://base:5433/rows?sslmode=require&application_name=a%40b',
        'postgres://base?sslmode=require',
        'postgresql://velro@base/rows',
        'postgresql://velro:p%40s%2Fs%23w%3For%25d@base/rows',
        'postgres://velro:p@ss@base/rows',
        'postgres://velro:a,b@base/rows',
        'postgres://base:5432,base2:5433/rows',
        'postgres://velro:hunter2@base,base2:5433/rows?target_session_attrs=primary',
        'postgres://velro:hunter2@[::1]:5433/rows',
        'postgres://velro:hunter2@10.0.0.1/rows',
        'postgres://velro@%2Fvar%2Frun%2Fpostgresql/rows',
        'postgres://velro:hunter2@/rows?host=/var/run/postgresql',
        'postgres://velro:hun@ter,2@base/rows',
        'postgres://velro:hun@ter2@base,base2/rows',
      ]) {
        expect([url, problemsOf({ [name]: url, SECRET: secret })]).toEqual([url, []])
      }
    })
  }

  test('refuses a part of the S3 variables, and never repeats the secret', () => {
    const whole = {
      S3_ENDPOINT: 'https://s3.example.com',
      S3_REGION: 'auto',
      S3_BUCKET: 'velro',
      S3_ACCESS_KEY_ID: 'id',
      S3_SECRET_ACCESS_KEY: 'hunter2',
    }
    expect(problemsOf(whole)).toEqual([])
    expect(problemsOf({ S3_BUCKET: 'velro', S3_SECRET_ACCESS_KEY: 'hunter2' })).toEqual([
      'S3_ENDPOINT, S3_REGION, S3_ACCESS_KEY_ID must be set too: S3 needs all five S3_ variables, or none',
    ])
    const wrong = problemsOf({ ...whole, S3_ENDPOINT: 'https://s3.example.com/velro', S3_BUCKET: '../x', PORT: 'http' })
    expect(wrong.map((problem) => problem.split(' ')[0]).sort()).toEqual(['PORT', 'S3_BUCKET', 'S3_ENDPOINT'])
    expect(wrong.join()).not.toContain('hunter2')
  })

  test('refuses a key that no header could carry and a base URL that takes no path, and repeats neither', () => {
    for (const name of ['FAL_KEY', 'OPENAI_API_KEY']) {
      for (const key of ['hunter2 hunter2', 'hunter2\u2019', 'hunter2\r\nhost: evil']) {
        expect(problemsOf({ [name]: key })).toEqual([expect.stringMatching(new RegExp(`^${name} must [^2]*$`))])
      }
    }
    for (const name of ['FAL_QUEUE_URL', 'OPENAI_BASE_URL']) {
      for (const url of [
        'queue.fal.run',
        'ftp://a.example',
        'https://me:hunter2@a.example',
        'https://a.example/?b',
        'https://a.example#b',
      ]) {
        expect(problemsOf({ [name]: url })).toEqual([expect.stringMatching(new RegExp(`^${name} must [^2]*$`))])
      }
    }
    for (const name of ['FAL_OUTPUT_HOSTS', 'OPENAI_OUTPUT_HOSTS']) {
      for (const host of [
        '*',
        'https://fal.media',
        'fal.media:443',
        'media',
        '.fal.media',
        '127.0.0.1',
        '[::1]',
        'FAL.media',
      ]) {
        expect(problemsOf({ [name]: host })).toEqual([expect.stringMatching(new RegExp(`^${name} holds `))])
      }
    }
  })

  test('refuses a short SECRET_PREVIOUS, notes one without effect, and repeats neither', () => {
    const secret = 'hunter2'.repeat(5)
    expect(problemsOf({ SECRET: secret, SECRET_PREVIOUS: 'hunter2' })).toEqual([
      'SECRET_PREVIOUS must have at least 32 characters',
    ])
    expect(parseConfig({ SECRET: secret, SECRET_PREVIOUS: secret }).notes).toEqual([
      'SECRET_PREVIOUS is the same as SECRET, and has no effect',
    ])
  })

  test('refuses DATABASE_URL without SECRET, and never repeats the secret', () => {
    expect(problemsOf({ DATABASE_URL: 'postgres://db/velro' })).toEqual([expect.stringMatching(/^SECRET must be set/)])
    expect(problemsOf({ DATABASE_URL: 'postgres://db/velro', SECRET: 'hunter2' }).join()).not.toContain('hunter2')
    expect(problemsOf({ DATABASE_URL: 'mysql://me:hunter2@db' }).join()).not.toContain('hunter2')
  })
})

test('passkeys belong to one domain, and to the origins of it that are given or that may call the API', () => {
  const passkeysOf = (env: Record<string, string>) => parseConfig(env).passkeys
  expect(passkeysOf({})).toEqual({ id: 'localhost', origins: ['http://localhost:3000'] })
  const served = { DATABASE_URL: 'postgresql://db/velro', SECRET: 's'.repeat(32) }
  expect(passkeysOf(served)).toBeUndefined()
  const CORS_ORIGINS = 'https://app.a.example,https://nota.example,https://*.a.example,http://a.example'
  expect(passkeysOf({ ...served, PASSKEY_DOMAIN: 'a.example', CORS_ORIGINS })).toEqual({
    id: 'a.example',
    origins: ['https://a.example', 'https://app.a.example'],
  })
  const given = { ...served, PASSKEY_DOMAIN: 'a.example', CORS_ORIGINS, PASSKEY_ORIGINS: 'https://b.a.example:8443' }
  expect(passkeysOf(given)?.origins).toEqual(['https://b.a.example:8443'])
  const problemsOf = (env: Record<string, string>): readonly string[] => {
    try {
      parseConfig({ ...served, ...env })
      return []
    } catch (error) {
      return error instanceof ConfigRefused ? error.problems : []
    }
  }
  expect(problemsOf({ PASSKEY_ORIGINS: 'https://a.example' })).toEqual([
    'PASSKEY_DOMAIN must be set too, because PASSKEY_ORIGINS is',
  ])
  expect(problemsOf({ PASSKEY_DOMAIN: 'https://a.example' })).toEqual([
    'PASSKEY_DOMAIN must be a domain such as example.com, in lower case, or localhost',
  ])
  const foreign = ['https://a.example/', 'https://b.example', 'http://a.example', 'https://xa.example']
  expect(problemsOf({ PASSKEY_DOMAIN: 'a.example', PASSKEY_ORIGINS: foreign.join(',') })).toEqual(
    foreign.map(
      (origin) =>
        `PASSKEY_ORIGINS holds "${origin}", which is not an origin such as https://app.a.example, without a slash at its end`,
    ),
  )
})
