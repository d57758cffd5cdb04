import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { mkdtemp, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { prepareDatabase } from '../../src/boot/prepare-database.ts'
import { parseConfig } from '../../src/config.ts'
import { createLog } from '../../src/platform/log.ts'
import { connectOnce } from '../../src/platform/postgres.ts'
import { reapFolder } from '../harness/reaper.ts'
import {
  createDatabase,
  type Runtime,
  startApp,
  startServer,
  type TestConnection,
  type TestDatabase,
} from '../harness.ts'
import { until } from './support.ts'

/** A server that answers every connection with one error of the Postgres protocol. */
const refusingPostgres = (code: string, message: string): Promise<Server> => {
  const fields = Buffer.from(`SFATAL\0VFATAL\0C${code}\0M${message}\0\0`)
  const length = Buffer.alloc(4)
  length.writeInt32BE(fields.length + 4)
  const server = createServer((socket) => {
    socket.on('error', () => {})
    socket.once('data', () => socket.end(Buffer.concat([Buffer.from('E'), length, fields])))
  })
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)))
}

const portOf = (server: Server): number => (server.address() as { port: number }).port

for (const runtime of ['bun', 'deno'] as const satisfies Runtime[]) {
  describe(`a start that must fail, on ${runtime}`, () => {
    let database: TestDatabase
    let postgres: Server
    beforeAll(async () => {
      database = await createDatabase()
      postgres = await refusingPostgres('28P01', 'password authentication failed for user "ada"')
    })
    afterAll(async () => {
      postgres.close()
      await database.drop()
    })

    /** What the process wrote, line by line, when it ended with exit code 1. */
    const refusal = async (
      env: Record<string, string>,
      connection: TestConnection = database.connection,
    ): Promise<string[]> => {
      const started = startServer({ runtime, connection, env: { LOG_LEVEL: 'silent', ...env } })
      const output = await started.then(
        async (server) => {
          await server.stop()
          return 'It started'
        },
        (error: Error) => error.message,
      )
      expect(output).toContain('exit code 1')
      return output.split('\n').slice(1).filter(Boolean)
    }
    const external = (authority: string) => ({ DATABASE_URL: `postgres://${authority}/velro` })

    test('names every error of the configuration on one line', async () => {
      expect(await refusal({ PORT: 'x', LOG_LEVEL: 'loud', QUOTA_TEAM_FREE: '3' })).toEqual([
        expect.stringMatching(
          /^Invalid configuration: QUOTA_TEAM_FREE is not a setting; set QUOTA_TEAMS_FREE instead; PORT must be .*; LOG_LEVEL must be one of .*\.$/,
        ),
      ])
    })

    test('names DATABASE_URL when the password is wrong', async () => {
      expect(await refusal(external(`ada:hunter2@127.0.0.1:${portOf(postgres)}`))).toEqual([
        `Postgres at 127.0.0.1:${portOf(postgres)} refused the password of user "ada". Correct user and password in DATABASE_URL.`,
      ])
    })

    test('names DATABASE_URL when nothing listens there', async () => {
      expect(await refusal(external('ada@127.0.0.1:1'))).toEqual([
        'Nothing accepts connections at 127.0.0.1:1. Start Postgres there, or correct host and port in DATABASE_URL.',
      ])
    })

    test('names each parameter of DATABASE_URL that is not supported, and notes one without effect', async () => {
      const url = `postgres://ada:hunter2@127.0.0.1:${portOf(postgres)}/velro`
      expect(await refusal({ DATABASE_URL: `${url}?schema=a&sslmode=full` })).toEqual([
        'Invalid configuration: DATABASE_URL parameter schema must be public or removed; DATABASE_URL parameter sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full.',
      ])
      expect(await refusal({ DATABASE_URL: `${url}?pgbouncer=true` })).toEqual([
        'DATABASE_URL parameter pgbouncer is ignored: statements are prepared, also through PgBouncer 1.21 or newer.',
        expect.stringMatching(/^Postgres at .* refused the password of user "ada"/),
      ])
    })

    test('names DATABASE_URL when the host is unknown', async () => {
      expect(await refusal(external('ada@velro.invalid'))).toEqual([
        expect.stringMatching(/^The host of velro\.invalid is unknown\. Correct the host in DATABASE_URL/),
      ])
    })

    test('names DATABASE_URL when the database is missing', async () => {
      expect(await refusal({}, { ...database.connection, database: 'not_there' })).toEqual([
        expect.stringMatching(/ has no database "not_there"\. Create it, or correct the name in DATABASE_URL\.$/),
      ])
    })

    test('names the grant when the user may not create tables', async () => {
      const empty = await createDatabase({ migrated: false })
      const sql = connectOnce(empty.connection)
      const user = `limited_${runtime}`
      await sql.unsafe(`create role ${user} login`)
      try {
        expect(await refusal({}, { ...empty.connection, user })).toEqual([
          expect.stringMatching(/permission denied for schema public\. Grant user .* DATABASE_URL\.$/),
        ])
      } finally {
        await sql.unsafe(`drop owned by ${user}; drop role ${user}`)
        await sql.end()
        await empty.drop()
      }
    })

    test('names SECRET when the signing keys were sealed with another one, and leaves no connection open', async () => {
      const { close } = await startApp({ connection: database.connection })
      await close()
      expect(await refusal({ SECRET: 'another secret, of more than 32 characters' })).toEqual([
        'The signing keys in this database were sealed with another SECRET. Set SECRET to the value that the other instances use, or SECRET_PREVIOUS to the value that it replaced.',
      ])
      const start = startApp({
        connection: database.connection,
        config: { secret: 'another secret, also long enough' },
      })
      await expect(start).rejects.toThrow('sealed under another SECRET')
      const sql = connectOnce(database.connection)
      const rows = await sql`select 1 from pg_stat_activity where datname = ${database.connection.database}
                              and pid <> pg_backend_pid() and application_name like 'velro:%'`
      await sql.end()
      expect(rows).toHaveLength(0)
    })

    test('names MEDIA_DIR when media cannot be written', async () => {
      expect(await refusal({ MEDIA_DIR: '/etc/hostname/media' })).toEqual([
        'Cannot write to /etc/hostname/media: part of the path is a file. Make it writable, or set MEDIA_DIR to another directory.',
      ])
      // Root may write everywhere, but not into a file.
      for (const [name, reason] of [
        ['drafts', 'a file is in its place'],
        ['a7', 'part of the path is a file'],
      ] as const) {
        const folder = await mkdtemp(join(tmpdir(), 'velro-media-'))
        reapFolder(folder)
        await writeFile(join(folder, name), 'a file')
        expect(await refusal({ MEDIA_DIR: folder })).toEqual([
          `Cannot write to ${folder}: ${reason}. Make it writable, or set MEDIA_DIR to another directory.`,
        ])
      }
    })

    test('names DATA_DIR when the embedded Postgres cannot write there', async () => {
      expect(await refusal({ DATABASE_URL: '', DATA_DIR: '/etc/hostname/data' })).toEqual([
        'Cannot write to /etc/hostname/data: part of the path is a file. Make it writable, or set DATA_DIR to another directory.',
      ])
    })

    test('names HOST when the address is not one of this machine, or is no address', async () => {
      for (const HOST of ['203.0.113.9', 'velro.invalid']) {
        expect(await refusal({ HOST })).toEqual([
          `The address ${HOST} is not one of this machine. Set HOST to an address of this machine, or leave it unset to listen on all of them.`,
        ])
      }
    })

    test('names PORT when it is taken, before the embedded Postgres is started', async () => {
      const port = String(portOf(postgres))
      expect(await refusal({ DATABASE_URL: '', PORT: port })).toEqual([
        `Port ${port} on 127.0.0.1 is in use. Stop the process that listens on it, or set PORT to another port.`,
      ])
    })
  })
}

for (const runtime of ['bun', 'deno'] as const satisfies Runtime[]) {
  test(`on ${runtime} a start without HOST serves IPv4 and IPv6, and one whose S3 is away says so and serves the rest`, async () => {
    const s3 = {
      S3_ENDPOINT: 'http://127.0.0.1:1',
      S3_REGION: 'us-east-1',
      S3_BUCKET: 'velro-media',
      S3_ACCESS_KEY_ID: 'id',
      S3_SECRET_ACCESS_KEY: 'hunter2',
    }
    const server = await startServer({ runtime, env: { HOST: '', ...s3 } })
    try {
      const { port } = new URL(server.baseUrl)
      for (const host of ['127.0.0.1', '[::1]']) {
        const ready = await fetch(`http://${host}:${port}/ready`)
        expect([host, ready.status, await ready.json()]).toEqual([
          host,
          200,
          { status: 'degraded', reasons: ['storage.unavailable'] },
        ])
      }
      await until(() => server.output().includes('Media cannot'), 'the start reports it')
      expect(server.output()).toMatch(
        /^Media cannot be stored in the bucket velro-media at http:\/\/127\.0\.0\.1:1: \S.* Check the S3_ variables/m,
      )
      expect(server.output()).not.toContain('hunter2')
    } finally {
      await server.stop()
    }
  })
}

test('a first start says that it applies migrations, and how many', async () => {
  const empty = await createDatabase({ migrated: false })
  const server = await startServer({ runtime: 'bun', connection: empty.connection })
  try {
    expect(server.output()).toMatch(/^Applying \d+ migrations$/m)
  } finally {
    await server.stop()
    await empty.drop()
  }
})

test('a start on a Postgres without a free connection waits for one, and says so', async () => {
  const empty = await createDatabase({ migrated: false })
  const admin = connectOnce({ ...empty.connection, database: 'postgres' })
  const user = `busy_${process.pid}`
  await admin.unsafe(`create role ${user} login connection limit 1`)
  await admin.unsafe(`alter database ${empty.connection.database} owner to ${user}`)
  const connection = { ...empty.connection, user }
  const holder = connectOnce(connection)
  await holder`select 1`
  const lines: string[] = []
  const report = (line: string) => {
    lines.push(line)
    if (lines.length === 2) void holder.end()
  }
  try {
    const { budget } = await prepareDatabase(connection, parseConfig({}), createLog('silent'), report)
    // Half of a limit of 1 is less than one connection for each pool.
    expect(budget).toBeLessThan(0)
  } finally {
    await holder.end({ timeout: 0 })
    await empty.drop()
    await admin.unsafe(`drop role ${user}`)
    await admin.end()
  }
  const waits =
    /^Postgres at .+ has no connection left or is starting\. Next try in \d\.\d s; the start gives up in \d+ s\.$/
  expect(lines.slice(0, 2)).toEqual([expect.stringMatching(waits), expect.stringMatching(waits)])
  expect(lines.at(-1)).toMatch(/^Applying \d+ migrations$/)
})
