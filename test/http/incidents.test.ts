import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { IncidentReport } from '../../src/incidents/report.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { until } from '../faults/support.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const path = '/api/v1/security/incidents'

/** Two instances of one service that report about the same subjects. */
let app: TestApp
let other: TestApp
let client: Api
let sql: Sql
let admin: Person
let colleague: Person
let person: Person

beforeAll(async () => {
  app = await startApp()
  other = await startApp({ connection: app.connection })
  client = api(app.baseUrl)
  sql = connectOnce(app.connection)
  ;[admin, colleague, person] = (await Promise.all(Array.from({ length: 3 }, () => register(client)))) as [
    Person,
    Person,
    Person,
  ]
  await sql`update users set role = 'admin' where id in (${admin.id}, ${colleague.id})`
  await app.caughtUp()
})
afterAll(async () => {
  await sql?.end()
  await other?.close()
  await app?.close()
})

const outcome = ({ status, body }: Answer) => `${status} ${body?.code ?? ''}`.trim()
const as = ({ token }: Person) => ({ token })
const list = async (query = '', by = admin) => (await client.get(`${path}?${query}`, as(by))).body
const get = (id: string, by = admin) => client.get(`${path}/${id}`, as(by))
const patch = (id: string, changes: object, by = admin) => client.patch(`${path}/${id}`, changes, as(by))

const forged = (id: string, rest: Partial<IncidentReport> = {}): IncidentReport => ({
  kind: 'cache.entry_forged',
  severity: 'high',
  subject: { type: 'dependency', id },
  ...rest,
})
const report = async (given: IncidentReport, on = app) => {
  on.services.incidentReports.open(given)
  await on.services.incidentReports.flush()
}
const openOne = async (id: string, rest: Partial<IncidentReport> = {}): Promise<string> => {
  await report(forged(id, rest))
  return (await list(`subject_id=${id}&status=open`)).items[0].id
}

describe('an incident', () => {
  test('reported by two instances at once and again is one row, which counts and keeps the highest severity', async () => {
    const about = (number: number, on: TestApp) => {
      for (let times = 0; times < 30; times += 1) {
        const severity = times === 20 ? 'critical' : 'low'
        on.services.incidentReports.open(forged('shared', { severity, evidence: { number, times } }))
        on.services.incidentReports.open(forged(`own-${number}`))
      }
      return on.services.incidentReports.flush()
    }
    await Promise.all([about(1, app), about(2, other)])
    await Promise.all([about(3, app), about(4, other)])
    const { items } = await list('subject_id=shared')
    expect(items).toHaveLength(1)
    expect(items[0]).toMatchObject({ kind: 'cache.entry_forged', severity: 'critical', count: 120, status: 'open' })
    const { body } = await get(items[0].id)
    expect(body).toMatchObject(items[0])
    expect(body.evidence).toHaveLength(10)
    expect(body.evidence[0].details.times).toBe(0)
    expect(body.evidence[9].details.times).toBe(29)
    expect(new Date(body.evidence[0].at).toISOString()).toBe(body.evidence[0].at)
  })

  test('that is reported is stored without a flush, soon after, and the report waits for nothing', async () => {
    app.services.incidentReports.open(forged('soon'))
    await until(async () => (await list('subject_id=soon')).items.length === 1, 'the incident is listed')
  })

  test('is assigned to an operator, noted, made less severe and closed, and then stays as it is', async () => {
    const id = await openOne('worked-on')
    expect((await patch(id, { assignee_id: colleague.id })).body.assignee_id).toBe(colleague.id)
    expect((await list(`assignee_id=${colleague.id}`)).items.map((item: { id: string }) => item.id)).toEqual([id])
    expect((await patch(id, { note: 'Looks like a test', severity: 'low' })).body).toMatchObject({
      assignee_id: colleague.id,
      note: 'Looks like a test',
      severity: 'low',
    })
    expect((await patch(id, { assignee_id: null })).body.assignee_id).toBeNull()
    const { status, body } = await patch(id, { status: 'closed', resolution: 'false_positive' }, colleague)
    expect([status, body.status, body.resolution, body.closed_by]).toEqual([
      200,
      'closed',
      'false_positive',
      colleague.id,
    ])
    for (const changes of [{ note: 'Again' }, { status: 'closed' }, { assignee_id: admin.id }]) {
      expect(outcome(await patch(id, changes))).toBe('409 incident.closed')
    }
    expect((await get(id)).body).toEqual(body)
  })

  test('is opened anew by a report after the first one was closed', async () => {
    const first = await openOne('comes-back')
    expect((await patch(first, { status: 'closed' })).body.resolution).toBe('resolved')
    const second = await openOne('comes-back')
    expect(second).not.toBe(first)
    expect((await get(first)).body).toMatchObject({ status: 'closed', count: 1 })
    expect((await get(second)).body).toMatchObject({ status: 'open', count: 1 })
  })

  test('reported while an operator closes it is counted on it or opens another one, and no report is lost', async () => {
    for (let round = 0; round < 10; round += 1) {
      const id = await openOne(`raced-${round}`)
      await Promise.all([patch(id, { status: 'closed' }), report(forged(`raced-${round}`), other)])
      const { items } = await list(`subject_id=raced-${round}`)
      expect(items.reduce((sum: number, { count }: { count: number }) => sum + count, 0)).toBe(2)
    }
  })

  test('is assigned to operators only, and to no unknown account', async () => {
    const id = await openOne('unfit')
    for (const assignee_id of [person.id, crypto.randomUUID()]) {
      expect(outcome(await patch(id, { assignee_id }))).toBe('409 incident.assignee_unfit')
    }
    expect((await get(id)).body.assignee_id).toBeNull()
  })

  test('is opened by hand with 201 and its path, and a second time counted with 200', async () => {
    const input = { severity: 'medium', subject: { type: 'user', id: person.id }, note: 'Asked by phone' }
    const first = await client.post(path, input, as(admin))
    expect([first.status, first.headers.get('location')]).toEqual([201, `${path}/${first.body.id}`])
    expect(first.body).toMatchObject({
      kind: 'operator.reported',
      opened_by: admin.id,
      note: 'Asked by phone',
      count: 1,
    })
    const second = await client.post(path, { ...input, severity: 'high', note: undefined }, as(colleague))
    expect([second.status, second.headers.get('location')]).toEqual([200, null])
    expect(second.body).toMatchObject({ id: first.body.id, count: 2, severity: 'high', opened_by: admin.id })
    expect(second.body.note).toBe('Asked by phone')
  })
})

describe('the list of incidents', () => {
  test('filters by status, kind, severity, subject and assignee, and its cursor leads through all of them once', async () => {
    for (let number = 0; number < 7; number += 1) {
      const severity = number % 2 === 0 ? 'low' : 'medium'
      await report(forged(`page-${number}`, { kind: 'dependency.unavailable', severity }))
    }
    const subjects = async (query: string) => {
      const seen: string[] = []
      for (let cursor: string | null = ''; cursor !== null; ) {
        const page: { items: { subject: { id: string } }[]; next_cursor: string | null } = await list(
          `${query}&limit=2${cursor && `&cursor=${cursor}`}`,
        )
        seen.push(...page.items.map(({ subject }) => subject.id))
        cursor = page.next_cursor
      }
      return seen
    }
    const numbers = (...of: number[]) => of.map((number) => `page-${number}`)
    expect(await subjects('kind=dependency.unavailable')).toEqual(numbers(6, 5, 4, 3, 2, 1, 0))
    expect(await subjects('kind=dependency.unavailable&severity=medium')).toEqual(numbers(5, 3, 1))
    const { items } = await list('subject_type=dependency&subject_id=page-3')
    await patch(items[0].id, { status: 'closed' })
    expect(await subjects('kind=dependency.unavailable&status=closed')).toEqual(numbers(3))
    expect(await subjects('kind=dependency.unavailable&status=open')).toEqual(numbers(6, 5, 4, 2, 1, 0))
    expect(await subjects(`assignee_id=${crypto.randomUUID()}`)).toEqual([])
  })

  test('shows no evidence, which can be long', async () => {
    await report(forged('quiet', { evidence: { secret: 'no' } }))
    const { items } = await list('subject_id=quiet')
    expect(Object.hasOwn(items[0], 'evidence')).toBeFalse()
  })

  test('reads an index for each filter, and no more rows than its page needs', async () => {
    await sql`
      insert into incidents (id, kind, severity, subject_type, subject_id, first_seen_at, last_seen_at, assignee_id, closed_at, resolution)
      select gen_random_uuid(), 'plan.test', case when n % 1000 = 0 then 'critical' else 'low' end, 'address', 'a' || case when n % 1000 = 2 then n else n % 3000 end, now(), now(),
             case when n % 1000 = 1 then ${admin.id}::uuid end, case when n % 1000 <> 2 then now() end,
             case when n % 1000 <> 2 then 'ignored' end
        from generate_series(1, 20000) n`
    await sql`vacuum analyze incidents`
    const filters = [sql``, sql`and closed_at is null`, sql`and kind = 'dependency.unavailable'`]
    filters.push(sql`and severity = 'critical'`, sql`and assignee_id = ${admin.id}`)
    filters.push(sql`and subject_type = 'address' and subject_id = 'a7'`)
    for (const filter of filters) {
      const plan = await sql`
        explain (analyze, timing off) select id from incidents where id < 'ffffffff-ffff-ffff-ffff-ffffffffffff' ${filter}
         order by id desc limit 21`
      const text = plan.map((row) => row['QUERY PLAN']).join('\n')
      expect(text).not.toContain('Seq Scan')
      const removed = [...text.matchAll(/Rows Removed by Filter: (\d+)/g)].reduce(
        (sum, [, count]) => sum + Number(count),
        0,
      )
      expect([text, removed < 100]).toEqual([text, true])
    }
    await sql`delete from incidents where kind = 'plan.test'`
  })
})

describe('the routes of incidents', () => {
  test('refuse wrong input with 422, unknown ids with 404, and people who are no operators with 403', async () => {
    const id = await openOne('guarded')
    const wrong: object[] = [
      {},
      { status: 'open' },
      { resolution: 'resolved' },
      { status: 'closed', resolution: 'gone' },
      { severity: 'huge' },
      { assignee_id: 'me' },
      { note: 'x'.repeat(2_001) },
      { count: 1 },
    ]
    for (const changes of wrong)
      expect([changes, outcome(await patch(id, changes))]).toEqual([changes, '422 request.invalid'])
    const subjects = [{ type: 'user', id: 'ada' }, { type: 'planet', id: 'x' }, { type: 'address', id: '' }, 'redis']
    for (const subject of subjects) {
      expect(outcome(await client.post(path, { severity: 'low', subject }, as(admin)))).toBe('422 request.invalid')
    }
    for (const query of ['status=any', 'kind=none', 'severity=huge', 'cursor=x', 'limit=0', 'subject_type=planet']) {
      expect([query, outcome(await client.get(`${path}?${query}`, as(admin)))]).toEqual([query, '422 request.invalid'])
    }
    const unknown = crypto.randomUUID()
    expect(outcome(await get(unknown))).toBe('404 incident.not_found')
    expect(outcome(await patch(unknown, { note: 'x' }))).toBe('404 incident.not_found')
    for (const answer of [
      await client.get(path, as(person)),
      await get(id, person),
      await patch(id, { note: 'x' }, person),
      await client.post(path, { severity: 'low', subject: { type: 'user', id: person.id } }, as(person)),
    ]) {
      expect(outcome(answer)).toBe('403 access.admins_only')
    }
  })
})

test('a closed account leaves incidents with its id alone: no evidence, no note, and none assigned to it', async () => {
  const leaver = await register(client)
  await sql`update users set role = 'admin' where id = ${leaver.id}`
  await app.caughtUp()
  const assigned = await openOne('of-a-leaver')
  await patch(assigned, { assignee_id: leaver.id })
  const about = forged('', { subject: { type: 'user', id: leaver.id }, evidence: { address: '203.0.113.9' } })
  await report(about)
  const [{ id }] = (await list(`subject_id=${leaver.id}`)).items
  await patch(id, { note: 'Lives in Utrecht' })
  const exported = await sql`select 1 from incidents where id = ${id} and evidence::text like '%203.0.113.9%'`
  expect(exported).toHaveLength(1)
  expect((await client.delete('/api/v1/auth/me', as(leaver))).status).toBe(204)
  expect((await get(id)).body).toMatchObject({ evidence: [], note: '', subject: { type: 'user', id: leaver.id } })
  expect((await get(assigned)).body.assignee_id).toBeNull()
})

test('a report about a closed account, or a session of one, counts without its evidence', async () => {
  const [leaver, stays] = [await register(client), await register(client)]
  const [{ id: sessionId } = { id: '' }] = await sql<{ id: string }[]>`
    select id from sessions where user_id = ${leaver.id}`
  const about = (type: 'user' | 'session', id: string) =>
    forged('', { subject: { type, id }, evidence: { address: '203.0.113.9' } })
  // Reported before the closing, and stored after it.
  app.services.incidentReports.open(about('user', leaver.id))
  app.services.incidentReports.open(about('session', sessionId))
  app.services.incidentReports.open(about('user', stays.id))
  expect((await client.delete('/api/v1/auth/me', as(leaver))).status).toBe(204)
  await app.services.incidentReports.flush()
  await report(about('user', leaver.id))
  const found = async (id: string) => (await get((await list(`subject_id=${id}`)).items[0].id)).body
  expect(await found(leaver.id)).toMatchObject({ count: 2, evidence: [] })
  expect(await found(sessionId)).toMatchObject({ count: 1, evidence: [] })
  expect((await found(stays.id)).evidence).toMatchObject([{ details: { address: '203.0.113.9' } }])
})

test('a report and the closing of its account wait for each other, and no evidence is left', async () => {
  const leaver = await register(client)
  const about = forged('', { subject: { type: 'user', id: leaver.id }, evidence: { address: '203.0.113.9' } })
  const evidence = async () =>
    (await sql<{ evidence: unknown[] }[]>`select evidence from incidents where subject_id = ${leaver.id}`)[0]?.evidence
  const waits = () =>
    until(async () => {
      const { count } = await sql`
        select from pg_stat_activity where wait_event_type = 'Lock' and query like '%insert into incidents%'
           and datname = current_database()`
      return count > 0
    }, 'the report waits')
  const closing = connectOnce(app.connection)
  app.services.incidentReports.open(about)
  let flushed: Promise<void> | undefined
  await closing.begin(async (tx) => {
    await tx`select from users where id = ${leaver.id} for update`
    flushed = app.services.incidentReports.flush()
    await waits()
    await tx`update users set status = 'deleted', email = null, password_hash = null where id = ${leaver.id}`
  })
  await flushed
  await closing.end()
  expect(await evidence()).toEqual([])
})
