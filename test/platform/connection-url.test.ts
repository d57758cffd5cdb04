import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { createConnection, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { parseConfig } from '../../src/config.ts'
import { parseConnectionUrl } from '../../src/platform/connection-url.ts'
import { checkServer, PostgresTooOld } from '../../src/platform/first-connection.ts'
import { connectOnce } from '../../src/platform/postgres.ts'
import { hasIpv6, makeCertificates, type PostgresServer, startPostgres } from '../harness/postgres-server.ts'
import { reapFolder } from '../harness/reaper.ts'
import { createDatabase, type TestConnection, type TestDatabase } from '../harness.ts'

const parse = (url: string, env: Record<string, string> = {}) => parseConnectionUrl(url, env)
const targetOf = (url: string, env?: Record<string, string>) => parse(url, env).target

describe('the parts of a connection URL', () => {
  const cases: [url: string, target: object][] = [
    ['postgres://base', { host: ['base'], port: [5432] }],
    [
      'postgresql://ada:p%40ss@base:5433/rows',
      { host: ['base'], port: [5433], user: 'ada', password: 'p@ss', database: 'rows' },
    ],
    ['postgres://ada:p@ss@base/rows', { host: ['base'], user: 'ada', password: 'p@ss' }],
    ['postgres://a,b:5433/rows', { host: ['a', 'b'], port: [5432, 5433] }],
    ['postgres://[::1]:5433/rows', { host: ['::1'], port: [5433] }],
    ['postgres://[fe80::1%25eth0]/rows', { host: ['fe80::1%eth0'], port: [5432] }],
    ['postgres://[2001:db8::1],10.0.0.1:5433/rows', { host: ['2001:db8::1', '10.0.0.1'], port: [5432, 5433] }],
    ['postgres://ada@%2Frun%2Fpostgresql/rows', { path: '/run/postgresql/.s.PGSQL.5432', ssl: false }],
    ['postgres://ada:x@/rows?host=/cloudsql/p:r:i', { path: '/cloudsql/p:r:i/.s.PGSQL.5432', database: 'rows' }],
    [
      'postgres:///rows?host=/run&port=5433&user=ada&password=x',
      { path: '/run/.s.PGSQL.5433', user: 'ada', password: 'x' },
    ],
    ['postgres:///?host=base&dbname=rows', { host: ['base'], database: 'rows' }],
    ['postgres://base/rows?options=-c%20geqo%3Doff', { startup: { options: '-c geqo=off' } }],
    ['postgres://a,b/rows?target_session_attrs=read-write', { target_session_attrs: 'read-write' }],
    ['postgres://a,b/rows?target_session_attrs=any', {}],
  ]
  test.each(cases)('%s', (url, target) => {
    expect(parse(url).problems).toEqual([])
    expect(targetOf(url)).toMatchObject(target)
  })

  test('that are missing come from PGHOST and PGPORT, several hosts included', () => {
    expect(targetOf('postgres:///rows', {})).toMatchObject({ host: ['localhost'], port: [5432] })
    expect(targetOf('postgres:///rows', { PGHOST: '/run', PGPORT: '5433' })).toMatchObject({
      path: '/run/.s.PGSQL.5433',
    })
    expect(targetOf('postgres:///rows', { PGHOST: 'a,b', PGPORT: '1,2' })).toMatchObject({
      host: ['a', 'b'],
      port: [1, 2],
    })
  })
})

describe('the meaning of sslmode', () => {
  const off = { HOME: '/nowhere' }
  const cases: [query: string, ssl: unknown][] = [
    ['', { prefer: true, rejectUnauthorized: false }],
    ['sslmode=disable', false],
    ['sslmode=allow', { prefer: true, rejectUnauthorized: false }],
    ['sslmode=prefer', { prefer: true, rejectUnauthorized: false }],
    ['sslmode=require', { rejectUnauthorized: false }],
    ['sslmode=no-verify', { rejectUnauthorized: false }],
    ['sslmode=verify-full', { rejectUnauthorized: true }],
    ['sslrootcert=system', { rejectUnauthorized: true }],
    ['ssl=true', { rejectUnauthorized: false }],
    ['ssl=false', false],
    ['channel_binding=require', { rejectUnauthorized: true }],
    ['sslmode=require&channel_binding=require', { rejectUnauthorized: true }],
    ['sslmode=require&sslnegotiation=direct', { rejectUnauthorized: false }],
  ]
  test.each(cases)('%s', (query, ssl) => {
    const { target, problems } = parse(`postgres://base/rows?${query}`, off)
    expect([target.ssl, problems]).toEqual([ssl, []] as never)
  })

  test('comes from PGSSLMODE where the URL has none', () => {
    expect(targetOf('postgres://base', { PGSSLMODE: 'verify-full' }).ssl).toEqual({ rejectUnauthorized: true })
    expect(targetOf('postgres://base?sslmode=disable', { PGSSLMODE: 'verify-full' }).ssl).toBe(false)
    expect(parse('postgres://base', { PGSSLMODE: 'full' }).problems).toEqual([
      expect.stringMatching(/^parameter sslmode /),
    ])
  })
})

describe('a parameter of a connection URL', () => {
  test('without effect is a note that names it and the reason', () => {
    for (const parameter of [
      ...['application_name=a%40b', 'connect_timeout=10', 'connection_limit=5', 'pool_timeout=0', 'pgbouncer=true'],
      ...['channel_binding=prefer', 'channel_binding=disable', 'keepalives_idle=30', 'supa=base-pooler.x'],
      ...['statement_timeout=1', 'prepareThreshold=0', 'uselibpqcompat=true', 'sslsni=1'],
    ]) {
      const { notes, problems } = parse(`postgres://base/rows?${parameter}`)
      expect([parameter, notes, problems]).toEqual([
        parameter,
        [expect.stringMatching(new RegExp(`^parameter ${parameter.split('=')[0]} is ignored: .+`))],
        [],
      ])
    }
  })

  test('that asks for the default is accepted without a note', () => {
    for (const parameter of [
      'schema=public',
      'client_encoding=UTF8',
      'gssencmode=disable',
      'ssl_min_protocol_version=TLSv1.2',
    ]) {
      expect([parameter, parse(`postgres://base/rows?${parameter}`)]).toEqual([
        parameter,
        expect.objectContaining({ notes: [], problems: [] }),
      ])
    }
  })

  test('that cannot be honoured is a problem that names it and repeats no value', () => {
    for (const parameter of [
      ...['schema=hunter2', 'ssl_mode=hunter2', 'sslmode=hunter2', 'ssl=hunter2', 'channel_binding=hunter2'],
      ...['gssencmode=require', 'sslcrl=hunter2', 'service=hunter2', 'require_auth=hunter2', 'replication=hunter2'],
      ...['target_session_attrs=standby', 'sslnegotiation=hunter2', 'sslnegotiation=direct', 'hostaddr=10.0.0.1'],
      ...['sslmode=verify-ca', 'sslrootcert=/hunter2', 'sslcert=/hunter2', 'sslrootcert=/etc/hostname'],
      ...[
        'sslrootcert=system&sslmode=require',
        'channel_binding=require&sslmode=disable',
        'ssl_min_protocol_version=TLSv1.3',
      ],
    ]) {
      const { problems } = parse(`postgres://base/rows?${parameter}`, { HOME: '/nowhere' })
      expect([parameter, problems.length > 0]).toEqual([parameter, true])
      expect(problems.join()).not.toContain('hunter2')
      for (const problem of problems) expect(problem).toMatch(/^parameters? .+ (must|needs) /)
    }
    for (const url of [
      'postgres://base:0/rows',
      'postgres://base,base2:99999/rows',
      'postgres://base/rows?port=x',
      'postgres://%40abstract',
      'postgres://a,%2Frun/rows',
    ]) {
      expect([url, parse(url).problems.length > 0]).toEqual([url, true])
    }
  })

  test('is reported with all other problems of the configuration, and noted by name', () => {
    const env = { SECRET: 'x'.repeat(32), PORT: 'http', DATABASE_BUS_URL: 'postgres://base?service=x' }
    expect(() => parseConfig({ ...env, DATABASE_URL: 'postgres://base/rows?schema=a' })).toThrow(
      /DATABASE_URL parameter schema must be public[\s\S]*DATABASE_BUS_URL parameter "service" must be removed[\s\S]*PORT must/,
    )
    const { notes } = parseConfig({ SECRET: env.SECRET, DATABASE_URL: 'postgres://base/rows?connection_limit=5' })
    expect(notes).toEqual([
      'DATABASE_URL parameter connection_limit is ignored: set DB_CONNECTIONS to limit connections',
    ])
  })
})

type Relay = { readonly port: number; close(): void }

/**
 * A relay on TCP to the socket of a server, which offers no TLS there. `onTls` may answer a request for TLS in its place;
 * `rewrite` changes what the server sends.
 */
const startRelay = async (
  { host, port }: TestConnection,
  { onTls, rewrite = (chunk) => chunk }: { onTls?: (client: Socket) => void; rewrite?: (chunk: Buffer) => Buffer } = {},
): Promise<Relay> => {
  const relay = createServer((client) => {
    client.on('error', () => {})
    client.once('data', (first: Buffer) => {
      if (onTls !== undefined && first.length === 8) return onTls(client)
      const server = createConnection(`${host}/.s.PGSQL.${port}`)
      server.on('error', () => {}).on('close', () => client.destroy())
      server.on('data', (chunk: Buffer) => client.write(rewrite(chunk)))
      server.write(first)
      client.pipe(server)
    })
  })
  await new Promise<void>((resolve) => relay.listen(0, '127.0.0.1', resolve))
  return { port: (relay.address() as { port: number }).port, close: () => relay.close() }
}

// CI installs openssl; elsewhere it may be missing.
describe.skipIf(Bun.which('openssl') === null)('a connection to a real Postgres', () => {
  let server: PostgresServer
  let shared: TestDatabase
  let certificates: string
  let home: string
  let bare: Relay
  let broken: Relay
  let injecting: Relay

  beforeAll(async () => {
    certificates = await makeCertificates()
    home = await mkdtemp(join(tmpdir(), 'velro-home-'))
    reapFolder(home)
    await mkdir(join(home, 'known', '.postgresql'), { recursive: true })
    await writeFile(
      join(home, 'known', '.postgresql', 'root.crt'),
      await Bun.file(join(certificates, 'root.crt')).text(),
    )
    server = await startPostgres({
      settings: { ssl: 'on', ssl_ca_file: 'root.crt' },
      files: {
        'root.crt': join(certificates, 'root.crt'),
        'server.crt': join(certificates, 'server.crt'),
        'server.key': join(certificates, 'server.key'),
      },
      access: [
        'local all all trust',
        'hostnossl all no_tls all trust',
        'host all no_tls all reject',
        'hostssl all certified all cert',
        'host all certified all reject',
        'host all with_password all scram-sha-256',
        'host all all all trust',
      ],
    })
    const sql = connectOnce(server.connection)
    await sql.unsafe(`create role no_tls login; create role certified login;
                      create role with_password login password 'a b/c'`)
    await sql.end()
    shared = await createDatabase({ migrated: false })
    bare = await startRelay(shared.connection)
    const fail = (client: Socket) => {
      client.write('S')
      client.once('data', () => client.end('this is no TLS handshake'))
    }
    broken = await startRelay(shared.connection, { onTls: fail })
    injecting = await startRelay(shared.connection, { onTls: (client) => void client.write('Sinjected') })
  }, 60_000)
  afterAll(async () => {
    for (const relay of [bare, broken, injecting]) relay?.close()
    await server?.stop()
    await shared?.drop()
  })

  /** Of each name: how to write the URL, and what the connection is, or the line that a start ends with. */
  const table = (): Record<string, [url: string, outcome: string | RegExp]> => {
    const at = (name: string) => join(certificates, name)
    const to = (query: string, parts: { user?: string; host?: string } = {}) => server.url({ query, ...parts })
    const over = ({ port }: Relay, query = '') => {
      const { user, database } = shared.connection
      return `postgres://${user}@127.0.0.1:${port}/${database}?${query}`
    }
    const folder = encodeURIComponent(server.folder)
    const invalid =
      /^The certificate of Postgres at .* is not valid here \(.+\)\. Name the file of its root with sslrootcert in DATABASE_URL/
    const noTls = /^Postgres at 127\.0\.0\.1:\d+ does not offer TLS, which sslmode in DATABASE_URL requires\./
    const client = `sslcert=${at('client.crt')}&sslkey=${at('client.key')}`
    return {
      'TLS is used where the server offers it, without sslmode': [to(''), 'TLS 127.0.0.1'],
      'disable uses plain text': [to('sslmode=disable'), 'plain text 127.0.0.1'],
      'allow and prefer use TLS': [to('sslmode=allow'), 'TLS 127.0.0.1'],
      'require accepts any certificate where no root is known': [to('sslmode=require'), 'TLS 127.0.0.1'],
      'require with sslnegotiation=direct': [to('sslmode=require&sslnegotiation=direct'), 'TLS 127.0.0.1'],
      'require verifies where a root is known': [to(`sslmode=require&sslrootcert=${at('other.crt')}`), invalid],
      'require with a root accepts another name': [
        to(`sslmode=require&sslrootcert=${at('root.crt')}`, { host: hasIpv6 ? '[::1]' : '127.0.0.1' }),
        hasIpv6 ? 'TLS ::1' : 'TLS 127.0.0.1',
      ],
      'verify-ca accepts the root': [to(`sslmode=verify-ca&sslrootcert=${at('root.crt')}`), 'TLS 127.0.0.1'],
      'verify-ca refuses another root': [to(`sslmode=verify-ca&sslrootcert=${at('other.crt')}`), invalid],
      'verify-full compares the certificate with the address of the host': [
        to(`sslmode=verify-full&sslrootcert=${at('root.crt')}`),
        'TLS 127.0.0.1',
      ],
      'verify-full accepts a name of the certificate': [
        to(`sslmode=verify-full&sslrootcert=${at('root.crt')}`, { host: 'localhost' }),
        /^TLS (127\.0\.0\.1|::1)$/,
      ],
      'verify-full refuses a root that is not known': [to('sslmode=verify-full'), invalid],
      'channel_binding=require refuses a root that is not known': [
        to('sslmode=require&channel_binding=require'),
        invalid,
      ],
      'channel_binding=require with a root': [
        to(`channel_binding=require&sslrootcert=${at('root.crt')}`),
        'TLS 127.0.0.1',
      ],
      'a certificate of the client': [to(`sslmode=require&${client}`, { user: 'certified' }), 'TLS 127.0.0.1'],
      'a certificate of the client that is missing': [
        to('sslmode=require', { user: 'certified' }),
        /^Postgres at .* does not let user "certified" in/,
      ],
      'a password with special symbols': [
        `postgres://with_password:a%20b%2Fc@127.0.0.1:${server.port}/postgres`,
        'TLS 127.0.0.1',
      ],
      'a wrong password': [
        `postgres://with_password:x@127.0.0.1:${server.port}/postgres?sslmode=require`,
        /^Postgres at .* refused the password of user "with_password"/,
      ],
      'prefer falls back to plain text where pg_hba.conf refuses TLS': [
        to('', { user: 'no_tls' }),
        'plain text 127.0.0.1',
      ],
      'require does not fall back': [to('sslmode=require', { user: 'no_tls' }), /does not let user "no_tls" in/],
      'prefer uses plain text where the server has no TLS': [over(bare), 'plain text socket'],
      'a server without TLS is refused where TLS is required': [over(bare, 'sslmode=require'), noTls],
      'a server without TLS is refused by verify-full': [over(bare, 'sslmode=verify-full'), noTls],
      'prefer falls back to plain text where TLS fails': [over(broken), 'plain text socket'],
      'require does not fall back where TLS fails': [over(broken, 'sslmode=require'), /^(?!plain text).+/],
      'bytes injected before TLS are refused': [over(injecting, 'sslmode=require'), noTls],
      'a unix socket in the place of the host': [
        `postgres://velro@${folder}:${server.port}/postgres`,
        'plain text socket',
      ],
      'a unix socket as parameter is never encrypted': [
        `postgres://velro@/postgres?host=${server.folder}&port=${server.port}&sslmode=require`,
        'plain text socket',
      ],
      'the first of two hosts that answers': [
        `postgres://velro@127.0.0.1:1,127.0.0.1:${server.port}/postgres`,
        'TLS 127.0.0.1',
      ],
      'parameters that are ignored': [
        to(
          'pgbouncer=true&connection_limit=5&schema=public&channel_binding=prefer&connect_timeout=9&application_name=x',
        ),
        'TLS 127.0.0.1',
      ],
      'options for the server': [to('options=-c%20geqo%3Doff'), 'TLS 127.0.0.1'],
      ...(hasIpv6 && { 'an IPv6 literal': [to('', { host: '[::1]' }), 'TLS ::1'] }),
      ...(hasIpv6 && {
        'verify-full refuses an address that the certificate does not name': [
          to(`sslmode=verify-full&sslrootcert=${at('root.crt')}`, { host: '[::1]' }),
          invalid,
        ],
      }),
    }
  }

  const script = fileURLToPath(new URL('./fixtures/connect.ts', import.meta.url))
  const deno = fileURLToPath(new URL('../../node_modules/deno/deno', import.meta.url))
  const commands = { bun: [process.execPath, script], deno: [deno, 'run', '-A', script] } as const
  const outcomes = async (runtime: keyof typeof commands, urls: string[], HOME: string): Promise<string[]> => {
    const [command, ...args] = commands[runtime]
    const env = { PATH: process.env['PATH'], HOME, DENO_NO_UPDATE_CHECK: '1', DENO_DIR: process.env['DENO_DIR'] }
    const { stdout } = await promisify(execFile)(command, [...args, JSON.stringify(urls)], { env })
    return JSON.parse(stdout) as string[]
  }

  for (const runtime of ['bun', 'deno'] as const) {
    test(`is what its URL says, on ${runtime}`, async () => {
      const cases = Object.entries(table())
      const found = await outcomes(
        runtime,
        cases.map(([, [url]]) => url),
        home,
      )
      for (const [index, [name, [, outcome]]] of cases.entries()) {
        const expected = typeof outcome === 'string' ? outcome : expect.stringMatching(outcome)
        expect([name, found[index]]).toEqual([name, expected])
      }
    }, 60_000)
  }

  test('is verified by sslmode=require with the root in ~/.postgresql/root.crt', async () => {
    const urls = [server.url({ query: 'sslmode=require' }), server.url({ query: 'sslmode=verify-ca' })]
    expect(await outcomes('bun', urls, join(home, 'known'))).toEqual(['TLS 127.0.0.1', 'TLS 127.0.0.1'])
  })

  test('to a version older than 15 is refused in one line', async () => {
    const older = await startRelay(shared.connection, {
      rewrite: (chunk) =>
        Buffer.from(chunk.toString('latin1').replace(/(\0?server_version\0)\d\d\./, '$114.'), 'latin1'),
    })
    const { user, database } = shared.connection
    const url = `postgres://${user}@127.0.0.1:${older.port}/${database}`
    const lines: unknown[] = []
    const log = { debug: () => {}, info: () => {}, error: () => {}, warn: (fields: object) => void lines.push(fields) }
    try {
      await expect(checkServer(url, 'DATABASE_URL', log)).rejects.toThrow(
        /^Postgres at 127\.0\.0\.1:\d+ has version 14\.\S+; Velro needs Postgres 15 or newer\. .* DATABASE_URL\.$/,
      )
      await expect(checkServer(url, 'DATABASE_URL', log)).rejects.toBeInstanceOf(PostgresTooOld)
      expect(lines).toEqual([])
    } finally {
      older.close()
    }
  })
})
