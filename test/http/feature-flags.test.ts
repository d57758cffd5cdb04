import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { type Answer, type Api, api, type Person, redis, register, startApp, type TestApp } from '../harness.ts'

const path = '/api/v1/security/feature-flags'

/** Three instances of one service: flags are changed on any of them and evaluated on all. */
let apps: TestApp[]
let clients: Api[]
let client: Api
let sql: Sql
let admin: Person
let person: Person
const statements: string[] = []

beforeAll(async () => {
  const config = { redisUrl: (await redis()).url }
  const first = await startApp({ config, onStatement: (text) => void statements.push(text) })
  const others = await Promise.all([1, 2].map(() => startApp({ config, connection: first.connection })))
  apps = [first, ...others]
  // An instance learns of the other members from their next heartbeat.
  while (!apps.every(({ services }) => services.caches.bus.members().length === 2)) await Bun.sleep(2)
  clients = apps.map(({ baseUrl }) => api(baseUrl))
  client = clients[0] as Api
  sql = connectOnce(first.connection)
  ;[admin, person] = (await Promise.all([register(client), register(client)])) as [Person, Person]
  await sql`update users set role = 'admin' where id = ${admin.id}`
  await first.caughtUp()
})
afterAll(async () => {
  await sql?.end()
  for (const app of apps?.toReversed() ?? []) await app.close()
})

const outcome = ({ status, body }: Answer) => `${status} ${body?.code ?? ''}`.trim()
const as = ({ token }: Person) => ({ token })
const put = (name: string, flag: object, by = client) => by.put(`${path}/${name}`, flag, as(admin))
const restore = (name: string, body: object = {}, by = client) => by.post(`${path}/${name}/restore`, body, as(admin))
const flagsOf = async (of = person, by = client): Promise<Record<string, boolean>> => {
  const { status, body } = await by.get('/api/v1/feature-flags', as(of))
  expect(status).toBe(200)
  return body.flags
}
/** Whether the feature is on for a person, on each instance. */
const seenBy = async (name: string, of = person) =>
  await Promise.all(clients.map(async (by) => (await flagsOf(of, by))[name]))
const everywhere = (value: boolean | undefined) => clients.map(() => value)
const newName = () => `flag-${crypto.randomUUID().slice(0, 8)}`

describe('a feature flag', () => {
  test('is added with 201 and its path, replaced whole with 200, and removed, each time with a new version', async () => {
    const name = newName()
    const added = await put(name, { enabled: true, percent: 12.5, users: [person.id], description: 'The new editor' })
    expect([added.status, added.headers.get('location')]).toEqual([201, `${path}/${name}`])
    expect(added.body).toMatchObject({
      name,
      version: 1,
      enabled: true,
      percent: 12.5,
      plan_percents: {},
      users: [person.id],
      except_users: [],
      teams: [],
      description: 'The new editor',
      updated_by: admin.id,
    })
    const replaced = await put(name, { enabled: true, plan_percents: { pro: 50 } })
    expect([replaced.status, replaced.headers.get('location')]).toEqual([200, null])
    expect(replaced.body).toMatchObject({
      version: 2,
      percent: 0,
      users: [],
      plan_percents: { pro: 50 },
      description: '',
    })
    expect((await client.get(`${path}/${name}`, as(admin))).body).toEqual(replaced.body)
    expect((await client.delete(`${path}/${name}`, as(admin))).status).toBe(204)
    expect(outcome(await client.get(`${path}/${name}`, as(admin)))).toBe('404 feature_flag.not_found')
    expect(outcome(await client.delete(`${path}/${name}`, as(admin)))).toBe('404 feature_flag.not_found')
    const versions = await client.get(`${path}/${name}/versions`, as(admin))
    expect(
      versions.body.items.map((item: { version: number; definition: object | null }) => [
        item.version,
        item.definition === null,
      ]),
    ).toEqual([
      [3, true],
      [2, false],
      [1, false],
    ])
  })

  test('that is put again with the same content keeps its version, so that going back once is enough', async () => {
    const name = newName()
    await put(name, { enabled: true, percent: 0 })
    await put(name, { enabled: true, percent: 100 })
    const { body } = await put(name, { enabled: true, percent: 100, users: [] })
    expect(body.version).toBe(2)
    expect((await restore(name)).body).toMatchObject({ version: 3, percent: 0 })
  })

  test('goes back by one call to the version before, each further call one further, and by its number to any', async () => {
    const name = newName()
    for (const percent of [10, 20, 30]) await put(name, { enabled: true, percent })
    const percentAfter = async (body: object = {}) => (await restore(name, body)).body.percent
    expect(await percentAfter()).toBe(20)
    expect(await percentAfter()).toBe(10)
    expect(outcome(await restore(name))).toBe('409 feature_flag.version_not_found')
    expect(await percentAfter({ version: 3 })).toBe(30)
    expect(await percentAfter()).toBe(20)
    const { body } = await client.get(`${path}/${name}/versions?limit=2`, as(admin))
    expect(body.items.map((item: Record<string, unknown>) => [item['version'], item['restored_from']])).toEqual([
      [7, 2],
      [6, 3],
    ])
    const next = await client.get(`${path}/${name}/versions?cursor=${body.next_cursor}`, as(admin))
    expect(next.body.items.map(({ version }: { version: number }) => version)).toEqual([5, 4, 3, 2, 1])
    expect(next.body.next_cursor).toBeNull()
    expect(outcome(await restore(name, { version: 99 }))).toBe('409 feature_flag.version_not_found')
  })

  test('that was removed is restored by the same call', async () => {
    const name = newName()
    await put(name, { enabled: true, percent: 100 })
    await client.delete(`${path}/${name}`, as(admin))
    expect(await seenBy(name)).toEqual(everywhere(undefined))
    expect((await restore(name)).body).toMatchObject({ version: 3, percent: 100 })
    expect(await seenBy(name)).toEqual(everywhere(true))
  })

  test('is not replaced or restored over a version that the operator has not seen', async () => {
    const name = newName()
    expect(outcome(await put(name, { enabled: true, current_version: 1 }))).toBe('409 feature_flag.changed')
    await put(name, { enabled: false })
    expect((await put(name, { enabled: true, current_version: 1 })).body.version).toBe(2)
    expect(outcome(await put(name, { enabled: false, current_version: 1 }))).toBe('409 feature_flag.changed')
    expect(outcome(await restore(name, { current_version: 1 }))).toBe('409 feature_flag.changed')
    // A client that lost the answer repeats its call: it is refused, and does not go back twice.
    expect((await restore(name, { current_version: 2 })).body).toMatchObject({ version: 3, enabled: false })
    expect(outcome(await restore(name, { current_version: 2 }))).toBe('409 feature_flag.changed')
  })

  test('keeps its last 50 versions', async () => {
    const name = newName()
    for (let percent = 1; percent <= 55; percent += 1) await put(name, { enabled: true, percent })
    const [row] = await sql`
      select count(*)::int as kept, min(version) as oldest from feature_flag_versions where name = ${name}`
    expect(row as object).toEqual({ kept: 50, oldest: 6 })
    expect(outcome(await restore(name, { version: 5 }))).toBe('409 feature_flag.version_not_found')
    expect((await restore(name, { version: 6 })).body.percent).toBe(6)
  })

  test('is refused with 422 where its definition or its name is wrong, or names an account or team that does not exist', async () => {
    const unknown = crypto.randomUUID()
    const wrong: object[] = [
      {},
      { enabled: 'yes' },
      { enabled: true, percent: 101 },
      { enabled: true, percent: -1 },
      { enabled: true, percent: 0.001 },
      { enabled: true, plan_percents: { gold: 1 } },
      { enabled: true, plan_percents: { pro: 33.333 } },
      { enabled: true, users: ['ada'] },
      { enabled: true, users: [unknown] },
      { enabled: true, except_users: [person.id, unknown] },
      { enabled: true, teams: [unknown] },
      { enabled: true, users: [person.id, person.id] },
      { enabled: true, version: 3 },
    ]
    for (const flag of wrong) expect([flag, outcome(await put(newName(), flag))]).toEqual([flag, '422 request.invalid'])
    const { body } = await put(newName(), { enabled: true, except_users: [person.id, unknown] })
    expect(body.errors).toEqual([
      { in: 'body', pointer: '/except_users/1', detail: 'must be the id of an account that exists' },
    ])
    for (const name of ['Upper', '-first', 'a:b', 'a_b', 'x'.repeat(65), '%00']) {
      expect([name, outcome(await put(name, { enabled: true }))]).toEqual([name, '422 request.invalid'])
    }
  })

  test('is one of at most 100', async () => {
    await sql`
      insert into feature_flags (id, name, version, definition, description, updated_at, updated_by)
      select gen_random_uuid(), 'many-' || n, 1, '{"enabled": false}', '', now(), ${admin.id}
        from generate_series(1, 100 - (select count(*)::int from feature_flags)) n`
    const refused = await put(newName(), { enabled: true })
    expect([outcome(refused), refused.body.limit]).toEqual(['409 feature_flag.too_many', 100])
    await sql`delete from feature_flags where name like 'many-%'`
  })

  test('changed by concurrent calls gets each version once', async () => {
    const name = newName()
    const answers = await Promise.all(
      Array.from({ length: 12 }, (_, at) => put(name, { enabled: true, percent: at + 1 }, clients[at % 3])),
    )
    expect(answers.map(({ body }) => body.version).toSorted((one, other) => one - other)).toEqual(
      Array.from({ length: 12 }, (_, at) => at + 1),
    )
  })

  test('is listed with the others, those added last first, and shown to operators alone', async () => {
    const names = [newName(), newName(), newName()]
    for (const name of names) await put(name, { enabled: false })
    const { body } = await client.get(`${path}?limit=2`, as(admin))
    expect(body.items.map(({ name }: { name: string }) => name)).toEqual([names[2], names[1]])
    const next = await client.get(`${path}?limit=1&cursor=${body.next_cursor}`, as(admin))
    expect(next.body.items[0].name).toBe(names[0])
    for (const refused of [
      client.get(path, as(person)),
      client.get(`${path}/${names[0]}`, as(person)),
      client.get(`${path}/${names[0]}/versions`, as(person)),
      client.put(`${path}/${names[0]}`, { enabled: true }, as(person)),
      client.post(`${path}/${names[0]}/restore`, {}, as(person)),
      client.delete(`${path}/${names[0]}`, as(person)),
    ]) {
      expect(outcome(await refused)).toBe('403 access.admins_only')
    }
    expect(outcome(await client.get('/api/v1/feature-flags'))).toBe('401 identity.not_signed_in')
  })
})

describe('on three instances', () => {
  let name: string
  beforeEach(async () => {
    name = newName()
    await put(name, { enabled: true, percent: 0 })
    expect(await seenBy(name)).toEqual(everywhere(false))
  })

  test('a change of a flag is felt everywhere when its call returns, and so is the way back', async () => {
    for (let round = 0; round < 20; round += 1) {
      const by = clients[round % 3]
      await put(name, { enabled: true, percent: 100 }, by)
      expect([round, await seenBy(name)]).toEqual([round, everywhere(true)])
      await restore(name, {}, clients[(round + 1) % 3])
      expect([round, await seenBy(name)]).toEqual([round, everywhere(false)])
    }
  })

  test('no read that begins after a change was answered sees the flag before it, while all instances read', async () => {
    const reads: { instance: number; beganMs: number; value: boolean | undefined }[] = []
    const answered: { atMs: number; nextMs: number; value: boolean }[] = []
    let isOver = false
    const read = async (instance: number) => {
      while (!isOver) {
        const beganMs = performance.now()
        const flags = await flagsOf(person, clients[instance])
        reads.push({ instance, beganMs, value: flags[name] })
      }
    }
    const readers = clients.flatMap((_, instance) => [read(instance), read(instance)])
    for (let round = 0; round < 30; round += 1) {
      const value = round % 2 === 0
      await put(name, { enabled: value, percent: 100 }, clients[round % 3])
      const atMs = performance.now()
      await Bun.sleep(5)
      answered.push({ atMs, nextMs: performance.now(), value })
    }
    isOver = true
    await Promise.all(readers)
    const wrong = answered.flatMap(({ atMs, nextMs, value }) =>
      reads.filter((read) => read.beganMs >= atMs && read.beganMs < nextMs && read.value !== value),
    )
    expect(wrong).toEqual([])
    const judged = reads.filter(({ beganMs }) =>
      answered.some(({ atMs, nextMs }) => beganMs >= atMs && beganMs < nextMs),
    )
    expect(new Set(judged.map(({ instance }) => instance)).size).toBe(3)
  })

  test('who joins or leaves a team has or loses the features of the team when the call returns', async () => {
    const owner = await register(client)
    const { body: team } = await client.post('/api/v1/teams', { name: 'Early' }, as(owner))
    await put(name, { enabled: true, teams: [team.id] })
    expect(await seenBy(name, owner)).toEqual(everywhere(true))
    for (let round = 0; round < 5; round += 1) {
      expect(await seenBy(name)).toEqual(everywhere(false))
      const invited = { email: person.email, role: 'viewer' }
      const { body } = await client.post(`/api/v1/teams/${team.id}/invitations`, invited, as(owner))
      await client.post('/api/v1/teams/invitations/accept', { secret: body.secret }, as(person))
      expect([round, await seenBy(name)]).toEqual([round, everywhere(true)])
      const answer =
        round % 2 === 0
          ? await client.delete(`/api/v1/teams/${team.id}/members/${person.id}`, as(owner))
          : await client.post(`/api/v1/teams/${team.id}/leave`, undefined, as(person))
      expect(answer.status).toBe(204)
    }
    expect(await seenBy(name)).toEqual(everywhere(false))
    expect((await client.delete(`/api/v1/teams/${team.id}`, as(owner))).status).toBe(204)
    expect(await seenBy(name, owner)).toEqual(everywhere(false))
  })

  test('an account that gets another plan has the features of that plan when the call returns', async () => {
    await put(name, { enabled: true, plan_percents: { pro: 100 } })
    for (const plan of ['pro', 'free', 'pro', 'free']) {
      await client.patch(`/api/v1/users/${person.id}`, { plan }, as(admin))
      expect(await seenBy(name)).toEqual(everywhere(plan === 'pro'))
    }
  })

  test('the server evaluates a flag in its own process with the result that the API answers', async () => {
    const { flagEvaluator } = (apps[1] as TestApp).services
    const deadline = createDeadlines(systemClock)(5_000)
    const isOn = async (flag: string) => await flagEvaluator.isOn(flag, { userId: person.id, plan: 'free' }, deadline)
    expect(await isOn(name)).toBeFalse()
    await put(name, { enabled: true, percent: 100 })
    expect(await isOn(name)).toBeTrue()
    expect(await isOn('never-added')).toBeFalse()
  })

  test('telling a person all flags costs no statement where memory is warm, and one where it is not', async () => {
    await flagsOf()
    statements.length = 0
    for (let times = 0; times < 20; times += 1) await flagsOf()
    expect(statements).toEqual([])
    ;(apps[0] as TestApp).services.caches.facts.invalidate('everything')
    await client.get('/api/v1/auth/me', as(person))
    statements.length = 0
    await flagsOf()
    expect(statements).toHaveLength(1)
  })

  test('without the trigger that invalidates flags, the same change is not felt: the tests above can fail', async () => {
    await sql`drop trigger touched_by_change on feature_flags`
    try {
      await put(name, { enabled: true, percent: 100 })
      expect(await seenBy(name)).toEqual(everywhere(false))
    } finally {
      await sql`
        create trigger touched_by_change after insert or update or delete on feature_flags
          for each statement execute function note_changed_feature_flags()`
      await sql`update feature_flags set version = version`
      await (apps[0] as TestApp).caughtUp()
    }
    expect(await seenBy(name)).toEqual(everywhere(true))
  })
})

test('a closed account is named by no flag and by no version of one', async () => {
  const leaver = await register(client)
  const name = newName()
  await put(name, { enabled: true, users: [leaver.id, person.id] })
  await put(name, { enabled: true, except_users: [leaver.id] })
  expect((await client.delete('/api/v1/auth/me', as(leaver))).status).toBe(204)
  const left = await sql`
    select 1 from feature_flags where definition::text like ${`%${leaver.id}%`}
     union all select 1 from feature_flag_versions where definition::text like ${`%${leaver.id}%`}`
  expect(left).toHaveLength(0)
  expect((await restore(name)).body.users).toEqual([person.id])
})
