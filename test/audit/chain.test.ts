import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { openDatabase, type TestDatabase } from '../harness.ts'
import { type AuditLog, createAuditLog } from './log.ts'
import { tamperAndVerify, tamperings } from './tampering.ts'

/** With AUDIT_ROWS=100000 the log is as long as that of a busy day. */
const rows = Number(process.env['AUDIT_ROWS'] ?? 5_000)

let database: TestDatabase & { sql: Sql }
let sql: Sql
let log: AuditLog
beforeAll(async () => {
  database = await openDatabase()
  sql = database.sql
  log = await createAuditLog(sql)
  await log.write(rows)
}, 600_000)
afterAll(() => database.drop())

test('the audit log is intact where nothing was changed, and every event is linked', async () => {
  const { problems, verified, pending, head } = await log.verify()
  expect({ problems, verified, pending }).toEqual({ problems: [], verified: rows, pending: 0 })
  expect(head).toBe(await log.head())
}, 600_000)

test('the verification goes on part by part to the same result', async () => {
  const { next, verified } = await log.verify([], 2_000)
  expect({ next: next?.after, verified }).toEqual({ next: 2_000, verified: 2_000 })
})

describe('the verification locates it where', () => {
  for (const tampering of tamperings.filter(({ needsCommit }) => needsCommit !== true)) {
    test(tampering.name, async () => {
      const { expected, found } = await tamperAndVerify(sql, tampering, log)
      for (const each of expected) expect(found).toContainEqual(expect.objectContaining(each))
      // Nothing else is blamed, but for links that follow from a changed one.
      const about = new Set(expected.map(({ problem }) => problem))
      expect(found.filter(({ problem }) => !about.has(problem) && !/^(event|link)_altered$/.test(problem))).toEqual([])
      expect(found.length).toBeLessThanOrEqual(expected.length + 4)
    }, 60_000)
  }
})

describe('the chain', () => {
  test('goes on at another instance from the signed head', async () => {
    await log.write(10)
    await log.add(1)
    await log.link(log.newChainer())
    expect((await log.verify()).problems).toEqual([])
  })

  test('waits for a transaction that may still insert an event before others, and then loses none', async () => {
    const slow = connectOnce(database.connection)
    const { verified } = await log.verify()
    const started = Promise.withResolvers<void>()
    const mayFinish = Promise.withResolvers<void>()
    const open = slow.begin(async (tx) => {
      await tx`select pg_current_xact_id()`
      started.resolve()
      await mayFinish.promise
    })
    await started.promise
    await log.add(5)
    await log.chainer.poll()
    expect(await log.verify()).toMatchObject({ problems: [], verified, pending: 5 })
    mayFinish.resolve()
    await open
    await slow.end()
    await log.link()
    expect(await log.verify()).toMatchObject({ problems: [], verified: verified + 5, pending: 0 })
  }, 30_000)

  test('that lost its last events goes on behind the signed head, so that they stay missing', async () => {
    const { verified } = await log.verify()
    const removed = await sql<{ event_id: string }[]>`
      delete from audit_links where sequence > ${verified - 3} returning event_id`
    await sql`delete from audit_events where id = any (${removed.map(({ event_id }) => event_id)}::uuid[])`
    await log.add(4)
    await log.link(log.newChainer())
    expect((await log.verify()).problems).toEqual([
      expect.objectContaining({ problem: 'links_removed', sequence: verified - 2, to: verified }),
    ])
  })

  test('whose older head was put back is continued from the newest head that an instance remembers', async () => {
    const { problems } = await log.verify()
    const old = await log.head()
    await log.write(3)
    await sql`update audit_heads set token = ${old}`
    await log.write(3)
    expect((await log.verify()).problems).toEqual([...problems])
  })

  test('whose head is gone begins anew, visibly, and the log of the process says so', async () => {
    const before = await log.verify()
    await sql`delete from audit_heads`
    const chainer = log.newChainer()
    log.written.length = 0
    await log.add(2)
    await log.link(chainer)
    expect(chainer.figures.restarted).toBe(1)
    expect(log.written.join('')).toContain('audit.chain_restarted')
    const { problems } = await log.verify()
    expect(problems).toContainEqual(expect.objectContaining({ problem: 'chain_restarted' }))
    expect(problems.length).toBe(before.problems.length + 1)
  })
})

test('an event that another program inserts is linked, and found to be no event of this service', async () => {
  const [row] = await sql<{ id: string }[]>`
    insert into audit_events (id, action, actor_kind, target_type, request_id, mac)
    values (gen_random_uuid(), 'user.changed', 'system', 'user', 'x', decode(repeat('00', 32), 'hex')) returning id`
  await log.link()
  const { problems } = await log.verify()
  expect(problems).toContainEqual(expect.objectContaining({ problem: 'event_not_authentic', event_id: row?.id ?? '' }))
})

test('a genuine event that is stored a second time is linked, and found to repeat another', async () => {
  const [row] = await sql<{ id: string }[]>`
    insert into audit_events (id, action, actor_kind, actor_id, session_id, target_type, target_id, request_id, after, details_hash, mac)
    select id, action, actor_kind, actor_id, session_id, target_type, target_id, request_id, after, details_hash, mac
      from audit_events where actor_id is not null order by id limit 1 returning id`
  await log.link()
  const { problems } = await log.verify()
  expect(problems).toContainEqual(
    expect.objectContaining({ problem: 'event_repeated', event_id: row?.id ?? '', sequence: expect.any(Number) }),
  )
})

test('a restored copy on a server with lower transaction ids links what the dump had not linked and what comes after, and says so', async () => {
  const copy = await openDatabase()
  const moved: string[] = []
  const own = await createAuditLog(copy.sql, undefined, { onMoved: () => void moved.push('moved') })
  await own.write(5)
  // As the server before gave them.
  await copy.sql`alter table audit_events alter column xid set default '9000000000'`
  await own.add(4)
  await copy.sql`alter table audit_events alter column xid set default pg_current_xact_id()`
  await copy.sql`update audit_cursor set xid = '9000000001', server = 'another'`
  await own.add(3)
  await own.chainer.poll()
  await own.link()
  expect(await own.verify()).toMatchObject({ problems: [], verified: 12, pending: 0 })
  expect(moved).toEqual(['moved'])
  expect(own.written.join('')).toContain('audit.database_moved')
  // Nothing waits any more, although the events of the dump have higher ids than any of this server.
  await own.chainer.poll()
  expect(own.chainer.figures.lagMs).toBe(0)
  await copy.drop()
}, 30_000)
