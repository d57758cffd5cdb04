import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { newId } from '../../src/kit/id.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { createAuditLog } from '../audit/log.ts'
import { until } from '../faults/support.ts'
import { type Api, api, openDatabase, type Person, register, startApp, type TestApp } from '../harness.ts'

let app: TestApp
let client: Api
let sql: Sql
let person: Person
beforeAll(async () => {
  app = await startApp({ config: { trustedProxies: ['127.0.0.1'] } })
  client = api(app.baseUrl)
  sql = connectOnce(app.connection)
  person = await register(client)
})
afterAll(async () => {
  await sql.end()
  await app.close()
})

const eventsOf = (requestId: string | null) => sql<Record<string, unknown>[]>`
  select e.*, d.details::json as details, d.user_id as details_user
    from audit_events e left join audit_details d on d.event_id = e.id and d.at = e.at where e.request_id = ${requestId}`

describe('a change', () => {
  test('records who did what to which resource, with session, address and program', async () => {
    const headers = { 'x-forwarded-for': '203.0.113.9', 'user-agent': 'a program' }
    const answer = await client.post('/api/v1/projects', { name: 'P' }, { token: person.token, headers })
    expect(answer.status).toBe(201)
    const [event, ...others] = await eventsOf(answer.headers.get('x-request-id'))
    expect(others).toEqual([])
    expect(event).toMatchObject({
      action: 'project.created',
      actor_kind: 'user',
      actor_id: person.id,
      session_id: expect.any(String),
      target_type: 'project',
      target_id: answer.body.id,
      after: { visibility: 'private', allow_derivatives: true },
      count: 1,
      details: { address: '203.0.113.9', user_agent: 'a program' },
      details_user: person.id,
    })
  })

  test('is refused and made undone where its event cannot be recorded', async () => {
    await sql.unsafe(`
      create function refuse() returns trigger language plpgsql as $$ begin raise exception 'refused'; end $$;
      create trigger refuse before insert on audit_events_default for each row execute function refuse()`)
    const partitions = await sql<{ name: string }[]>`
      select inhrelid::regclass::text as name from pg_inherits where inhparent = 'audit_events'::regclass and inhrelid::regclass::text <> 'audit_events_default'`
    for (const { name } of partitions)
      await sql.unsafe(`create trigger refuse before insert on ${name} for each row execute function refuse()`)
    try {
      const refused = await client.post('/api/v1/projects', { name: 'never' }, { token: person.token })
      expect(refused.status).toBe(500)
      expect([...(await sql`select from projects where name = 'never'`)]).toEqual([])
    } finally {
      await sql`drop function refuse() cascade`
    }
  })
})

describe('the personal data of events', () => {
  test('are in the export of the account, and gone once it is closed, while the chain stays intact', async () => {
    const closing = await register(client)
    await client.post('/api/v1/projects', { name: 'Q' }, { token: closing.token })
    const exported = await fetch(`${app.baseUrl}/api/v1/auth/me/export`, {
      method: 'POST',
      headers: { authorization: `Bearer ${closing.token}` },
    })
    const archive = Buffer.from(await exported.arrayBuffer()).toString('latin1')
    expect(archive).toContain('audit.json')
    expect(archive).toContain('project.created')
    expect((await client.delete('/api/v1/auth/me', { token: closing.token })).status).toBe(204)
    const details = await sql`select from audit_details where user_id = ${closing.id}`
    expect(details.length).toBe(0)
    const [{ events } = { events: 0 }] = await sql<{ events: number }[]>`
      select count(*)::int as events from audit_events where actor_id = ${closing.id}`
    expect(events).toBeGreaterThanOrEqual(3)
    await sql`update users set role = 'admin' where id = ${person.id}`
    await app.caughtUp()
    const isLinked = async () => {
      const { body } = await client.get('/api/v1/security/audit/verify', { token: person.token })
      return body.pending === 0 && body.intact === true && body.erased >= events
    }
    await until(isLinked, 'the log is intact without the personal data')
  }, 30_000)
})

describe('a denied access', () => {
  test('is recorded with its reason and count once its minute is over, and not before', async () => {
    const other = await register(client)
    const id = newId()
    for (let time = 0; time < 3; time += 1)
      await client.post(
        '/api/v1/authorization/check',
        { action: 'read', resource: { type: 'project', id } },
        { token: other.token },
      )
    await client.get(`/api/v1/projects/${id}`, { token: other.token })
    await app.services.auditSink.flush()
    // As if the minute were over.
    await sql`update audit_denials set minute = minute - interval '2 minutes'`
    await app.services.auditSink.closeMinutes()
    const { body } = await client.get('/api/v1/auth/audit?limit=1', { token: other.token })
    expect(body.items).toEqual([
      expect.objectContaining({
        action: 'access.denied',
        target: { type: 'project', id },
        count: 4,
        after: expect.objectContaining({ action: 'read', reason: 'resource.not_visible' }),
      }),
    ])
    expect(body.items[0].actor.address).toEqual(expect.any(String))
  })
})

describe('the audit log by its target', () => {
  let operator: Person
  const find = async (targetId: string, query = '') => {
    const path = `/api/v1/security/audit?target_id=${encodeURIComponent(targetId)}${query}`
    return client.get(path, { token: operator.token })
  }
  /** As if the minute were over. */
  const passMinute = async () => {
    await app.services.auditSink.flush()
    await sql`update audit_denials set minute = minute - interval '2 minutes'`
    await app.services.auditSink.closeMinutes()
  }
  beforeAll(async () => {
    operator = await register(client)
    await sql`update users set role = 'admin' where id = ${operator.id}`
    await app.caughtUp()
  })

  test('shows the denials of an asker that tried many resources, each by its resource, beside its own events', async () => {
    const [owner, prober] = [await register(client), await register(client)]
    const made = async (name: string) =>
      (await client.post('/api/v1/projects', { name }, { token: owner.token })).body.id as string
    const [tried, untouched] = [await made('tried'), await made('untouched')]
    const ask = (id: string) =>
      client.post(
        '/api/v1/authorization/check',
        { action: 'read', resource: { type: 'project', id } },
        { token: prober.token },
      )
    const tries = [tried, ...Array.from({ length: 50 }, () => newId())]
    for (const id of tries) await ask(id)
    await passMinute()
    await ask(tried)
    await passMinute()
    const { body } = await find(tried)
    expect(body.items.map(({ action, target }: { action: string; target: object }) => [action, target])).toEqual([
      ['access.denied', { type: 'project', id: tried }],
      ['access.denied', { type: 'user', id: prober.id }],
      ['project.created', { type: 'project', id: tried }],
    ])
    const { denials } = body.items[1].after
    expect(denials.find(({ id }: { id: string }) => id === tried)).toMatchObject({ action: 'read', count: 1 })
    expect((await find(untouched)).body.items).toHaveLength(1)
    // By pages, by its other filters, and by the last of the ids, which is in another event than the first.
    const pages: string[] = []
    for (let cursor: string | null = ''; cursor !== null; ) {
      const page: Awaited<ReturnType<typeof find>> = await find(tried, `&limit=1${cursor && `&cursor=${cursor}`}`)
      pages.push(...page.body.items.map(({ id }: { id: string }) => id))
      cursor = page.body.next_cursor
    }
    expect(pages).toEqual(body.items.map(({ id }: { id: string }) => id))
    expect((await find(tried, `&actor_id=${owner.id}`)).body.items).toHaveLength(1)
    expect((await find(tried, '&action=access.denied')).body.items).toHaveLength(2)
    expect((await find(tries.at(-1) as string)).body.items).toMatchObject([{ target: { id: prober.id } }])
    expect((await find(prober.id, '&action=access.denied')).body.items).toHaveLength(2)
  })

  test('takes the name of a target that has no id, and refuses what no target is called', async () => {
    const path = '/api/v1/security/breakers/mail'
    expect((await client.patch(path, { failures: 6 }, { token: operator.token })).status).toBe(200)
    expect((await find('mail')).body.items).toMatchObject([
      { action: 'breaker.policy_changed', target: { type: 'breaker', id: 'mail' } },
    ])
    expect((await find('no-such-target')).body.items).toEqual([])
    for (const wrong of ['', ' ', 'a b', 'x'.repeat(201), 'é', "x\u0000'"])
      expect([wrong, (await find(wrong)).status]).toEqual([wrong, 422])
  })

  test('is read from indexes, however many events there are', async () => {
    const plan = await sql.begin(async (tx) => {
      await tx`set local enable_seqscan = off`
      const rows = await tx<Record<'QUERY PLAN', string>[]>`
        explain select e.id from audit_events e
         where e.action = 'access.denied' and e.target_type = 'user' and audit_denied_ids(e.after) @> array[${newId()}]`
      return rows.map((row) => row['QUERY PLAN']).join('\n')
    })
    expect(plan).not.toContain('Seq Scan')
    expect(plan).toContain('audit_denied_ids(after) @>')
  })
})

describe('an incident of the audit log is opened', () => {
  const countIncidents = async (by: Sql) => {
    const rows = await by`select from incidents where kind = 'audit.chain_broken' and severity = 'critical'`
    return rows.length
  }

  test('by a verification that finds an altered event', async () => {
    await sql`update users set role = 'admin' where id = ${person.id}`
    await app.caughtUp()
    await sql`update audit_events set count = count + 1 where id = (select event_id from audit_links order by at, sequence limit 1)`
    const { body } = await client.get('/api/v1/security/audit/verify', { token: person.token })
    expect(body.problems).toEqual([expect.objectContaining({ problem: 'event_altered' })])
    await until(async () => (await countIncidents(sql)) === 1, 'the incident is stored')
  })

  test('by a chain that begins anew because its signed head is missing', async () => {
    const database = await openDatabase()
    const log = await createAuditLog(database.sql)
    await log.write(3)
    await database.sql`delete from audit_heads`
    const other = await startApp({ connection: database.connection })
    await register(api(other.baseUrl))
    await until(async () => (await countIncidents(database.sql)) === 1, 'the incident is stored')
    await other.close()
    await database.drop()
  }, 30_000)
})
