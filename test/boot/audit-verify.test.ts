import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { connectionEnvironment } from '../../src/platform/postgres.ts'
import { createSecrets } from '../../src/platform/secrets.ts'
import { createSecretStore } from '../../src/secrets/store.ts'
import { openWrappedKeys } from '../../src/secrets/wrapped-keys.ts'
import { createAuditLog } from '../audit/log.ts'
import { findRows, tamperings } from '../audit/tampering.ts'
import { createDatabase, openDatabase, type TestConnection, type TestDatabase, testSecret } from '../harness.ts'

/** With AUDIT_ROWS=100000 the log is as long as that of a busy day, and all ways to tamper run, with what the command says. */
const size = process.env['AUDIT_ROWS']
const rows = Number(size ?? 1_500)
const script = fileURLToPath(new URL('../../src/boot/audit-verify.ts', import.meta.url))
const deno = fileURLToPath(new URL('../../node_modules/.bin/deno', import.meta.url))
const runtimes = { bun: [process.execPath], deno: [deno, 'run', '-A'] }

const run = (
  connection: TestConnection,
  args: readonly string[] = [],
  { runtime = 'bun' as keyof typeof runtimes, env = {} as Record<string, string> } = {},
): Promise<{ code: number; out: string; err: string; ms: number }> =>
  new Promise((resolve) => {
    const [program = '', ...before] = runtimes[runtime]
    const environment = {
      ...process.env,
      ...connectionEnvironment(connection),
      SECRET: testSecret,
      LOG_LEVEL: 'warn',
      ...env,
    }
    const startedAt = performance.now()
    execFile(program, [...before, script, ...args], { env: environment }, (error, out, err) => {
      resolve({ code: Number(error?.code ?? 0), out, err, ms: performance.now() - startedAt })
    })
  })

let original: TestDatabase
let head: string
beforeAll(async () => {
  original = await createDatabase()
  const { sql, drop } = await openDatabase({ copyOf: original.connection.database })
  await original.drop()
  const keyedHash = await openWrappedKeys({ store: createSecretStore(sql), secrets: createSecrets(testSecret) })
  const log = await createAuditLog(sql, keyedHash)
  await log.write(rows)
  head = await log.head()
  const [row] = await sql<{ name: string }[]>`select current_database() as name`
  await sql.end()
  original = { connection: { ...original.connection, database: row?.name ?? '' }, drop }
}, 600_000)
afterAll(() => original.drop())

/** What issue and README promise: each is found, with its place, and the command ends with 1. */
const named = [
  'one byte of an event is flipped',
  'one event is deleted',
  'the links of two events are swapped',
  'an event is inserted after the others',
  'the last ten events are cut off, the head and all, and a kept head is given',
]

describe('audit:verify ends with 1 and names the place where', () => {
  for (const tampering of tamperings.filter(({ name }) => size !== undefined || named.includes(name))) {
    test(tampering.name, async () => {
      const copy = await openDatabase({ copyOf: original.connection.database })
      const found = await findRows(copy.sql)
      const expected = await copy.sql.begin((tx) => tampering.tamper(tx, found))
      const args = tampering.needsHead === true ? ['--head', head] : []
      const { code, out, err, ms } = await run(copy.connection, args)
      if (size !== undefined) console.info(`${tampering.name}: ${Math.round(ms)} ms\n${out.split('\n')[0]}`)
      expect({ code, err }).toEqual({ code: 1, err: '' })
      for (const { problem, sequence, event_id } of expected) {
        const place =
          sequence === undefined ? 'month 20' : `, link${problem === 'links_removed' ? 's' : ''} ${sequence}`
        const parts = [`${problem}: `, place, event_id ?? '']
        expect(out.split('\n').filter((line) => parts.every((part) => line.includes(part)))).toHaveLength(1)
      }
      expect(out).toContain('The audit log is not intact')
      expect(out).toContain('What to do: keep a copy of this database')
      await copy.drop()
    }, 60_000)
  }
})

for (const runtime of ['bun', 'deno'] as const)
  test(`audit:verify on ${runtime} ends with 0 for an intact log, and writes nothing into the database`, async () => {
    const { sql, connection, drop } = await openDatabase({ copyOf: original.connection.database })
    await sql.unsafe(`alter database ${connection.database} set default_transaction_read_only = on`)
    const env = { ADMIN_EMAIL: 'operator@example.com' }
    const { code, out, err, ms } = await run(connection, ['--head', head], { runtime, env })
    if (size !== undefined) console.info(`intact, ${runtime}: ${Math.round(ms)} ms\n${out}`)
    expect({ code, err }).toEqual({ code: 0, err: '' })
    expect(out).toContain(`The audit log is intact: ${rows} linked events verified`)
    expect(out).not.toContain('No head was given')
    const withoutHead = await run(connection, [], { runtime })
    expect(withoutHead.out).toContain('No head was given, so a log that was cut at its end would look the same.')
    await drop()
  }, 60_000)

test('audit:verify ends with 2 and says why where it cannot verify', async () => {
  const { connection } = original
  const [header = '', ...rest] = head.split('.')
  const cases: [string[], Record<string, string>, string][] = [
    [
      ['--head', [header, ...rest].join('.').slice(0, -9)],
      {},
      'The head given by --head was not signed by this service.',
    ],
    [['--head', head, '--head', 'x'], {}, 'The 2. head given by --head'],
    [['--heed'], {}, "Unknown option '--heed'"],
    [[], { SECRET: 'another secret that no instance ever had' }, 'sealed under another SECRET'],
    [[], { DATABASE_URL: `postgres:///postgres` }, 'This database has no tables of Velro. Check DATABASE_URL.'],
  ]
  const found = await Promise.all(cases.map(([args, env]) => run(connection, args, { env })))
  for (const [at, { code, out, err }] of found.entries()) {
    expect({ code, out }).toEqual({ code: 2, out: '' })
    expect(err).toContain(cases[at]?.[2] ?? '')
  }
  const older = await openDatabase({ copyOf: connection.database })
  await older.sql`delete from schema_migrations where version > 60`
  const refused = await run(older.connection)
  expect(refused.code).toBe(2)
  expect(refused.err).toMatch(
    /^The schema of this database lacks \d+ migrations of this version. Run bun run migrate first/,
  )
  await older.drop()
}, 60_000)
