import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { defaultPolicy, maxBudget, type Policy, type Quota } from '../../src/limits/policy.ts'
import { createLog } from '../../src/platform/log.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { newPicture } from '../harness/pictures.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const everyPlan = (figure: number) => ({ free: figure, pro: figure, enterprise: figure })

/** The budgets are out of the way, and every plan has these quotas. */
const policyOf = (quotas: Partial<Record<Quota, number>>): Policy =>
  ({
    budgets: Object.fromEntries(
      Object.entries(defaultPolicy.budgets).map(([name, figure]) => [
        name,
        typeof figure === 'number' ? maxBudget : everyPlan(maxBudget),
      ]),
    ),
    quotas: {
      ...defaultPolicy.quotas,
      ...Object.fromEntries(Object.entries(quotas).map(([name, figure]) => [name, everyPlan(figure)])),
    },
  }) as Policy

const imageBytes = 26_214_400
const order = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64 } }
const quotas = { projects: 3, teams: 2, team_members: 3, sessions: 3, jobs_under_way: 4 }

let app: TestApp
let other: TestApp
let client: Api
let sql: Sql
beforeAll(async () => {
  app = await startApp({ config: { limits: 'on', policy: policyOf(quotas), dbConnections: 60 } })
  other = await startApp({
    connection: app.connection,
    config: { limits: 'on', policy: policyOf(quotas), dbConnections: 40 },
  })
  client = api(app.baseUrl)
  sql = connectOnce(app.connection)
})
afterAll(async () => {
  await sql?.end()
  await other?.close()
  await app?.close()
})

const codeOf = ({ status, body }: Answer): string => (status < 400 ? String(status) : `${status} ${body.code}`)
const tally = (answers: readonly Answer[]) => {
  const counts: Record<string, number> = {}
  for (const code of answers.map(codeOf)) counts[code] = (counts[code] ?? 0) + 1
  return counts
}
/** The same call 20 times at once, half of them on each instance. */
const twenty = (call: (on: Api) => Promise<Answer>) =>
  Promise.all(Array.from({ length: 20 }, (_, index) => call(index % 2 ? client : api(other.baseUrl))))
const refusedOf = (answers: readonly Answer[]) => answers.find(({ status }) => status >= 400)?.body
const as = ({ token }: Person) => ({ token })
const createProject = (person: Person, on = client) => on.post('/api/v1/projects', { name: 'P' }, as(person))
const createTeam = (person: Person, on = client) => on.post('/api/v1/teams', { name: 'T' }, as(person))
const placeOrder = (person: Person, on = client) => on.post('/api/v1/generations', order, as(person))
const login = ({ email, password }: Person, on = client) => on.post('/api/v1/auth/login', { email, password })
const join = async (team: string, owner: Person, person: Person) => {
  const invited = await client.post(
    `/api/v1/teams/${team}/invitations`,
    { email: person.email, role: 'editor' },
    as(owner),
  )
  return () => client.post('/api/v1/teams/invitations/accept', { secret: invited.body.secret }, as(person))
}

describe('a quota', () => {
  test('of projects admits exactly what fits of concurrent calls on two instances, and a deletion gives back', async () => {
    const ada = await register(client)
    const answers = await twenty((on) => createProject(ada, on))
    expect(tally(answers)).toEqual({ '201': 3, '409 quota.projects': 17 })
    expect(refusedOf(answers)).toMatchObject({
      limit: 3,
      used: 3,
      detail: 'You already own 3 projects, of at most 3; delete or transfer one first',
    })
    const created = answers.find(({ status }) => status === 201)?.body.id
    const [removed, ...rest] = await Promise.all([
      client.delete(`/api/v1/projects/${created}`, as(ada)),
      ...Array.from({ length: 5 }, () => createProject(ada)),
    ])
    expect(removed?.status).toBe(204)
    const [row] = await sql<{ owned: number }[]>`select count(*)::int as owned from projects where owner_id = ${ada.id}`
    // A creation counts the deletion that was committed before it.
    expect(row?.owned).toBe(2 + rest.filter(({ status }) => status === 201).length)
    if (row?.owned === 2) expect(codeOf(await createProject(ada))).toBe('201')
    expect(codeOf(await createProject(ada))).toBe('409 quota.projects')
  })

  test('of projects and teams refuses a transfer to an owner without room, without telling what that owner has', async () => {
    const [ada, bob] = [await register(client), await register(client)]
    const team = (await createTeam(ada)).body.id
    await (await join(team, ada, bob))()
    const project = (await client.post('/api/v1/projects', { name: 'P', visibility: 'team-only' }, as(ada))).body.id
    await client.post(`/api/v1/projects/${project}/teams`, { team_id: team, access_level: 'admin' }, as(ada))
    for (let count = 0; count < 3; count += 1) await createProject(bob)
    for (let count = 0; count < 2; count += 1) await createTeam(bob)
    const transfer = () => client.post(`/api/v1/projects/${project}/transfer`, { owner_id: bob.id }, as(ada))
    const transferTeam = () => client.post(`/api/v1/teams/${team}/transfer`, { user_id: bob.id }, as(ada))
    const refused = [await transfer(), await transferTeam()]
    expect(refused.map(codeOf)).toEqual(['409 project.new_owner_full', '409 team.new_owner_full'])
    expect(JSON.stringify(refused.map(({ body }) => body))).not.toMatch(/"(used|limit)"/)
    await sql`delete from projects where owner_id = ${bob.id} and name = 'P' and id <> ${project}`
    await sql`delete from teams where id in (select team_id from team_members where user_id = ${bob.id} and role = 'owner')`
    expect([await transfer(), await transferTeam()].map(({ status }) => status)).toEqual([200, 200])
  })

  test('of teams admits exactly what fits, and of members joins exactly as many as fit', async () => {
    const ada = await register(client)
    const answers = await twenty((on) => createTeam(ada, on))
    expect(tally(answers)).toEqual({ '201': 2, '409 quota.teams': 18 })
    const team = answers.find(({ status }) => status === 201)?.body.id
    const people = await Promise.all(Array.from({ length: 6 }, () => register(client)))
    const accept: (() => Promise<Answer>)[] = []
    for (const person of people) accept.push(await join(team, ada, person))
    const joined = await Promise.all(accept.map((each) => each()))
    expect(tally(joined)).toEqual({ '200': 2, '409 quota.team_members': 4 })
    expect(refusedOf(joined)).toMatchObject({ limit: 3, used: 3 })
  })

  test('of jobs under way accepts exactly what fits of concurrent orders, and a cancelled one gives back', async () => {
    const ada = await register(client)
    const answers = await twenty((on) => placeOrder(ada, on))
    expect(tally(answers)).toEqual({ '201': 4, '429 quota.jobs_under_way': 16 })
    expect(refusedOf(answers)).toMatchObject({ limit: 4, used: 4 })
    expect(answers.find(({ status }) => status === 429)?.headers.get('retry-after')).toBe('5')
    const accepted = answers.find(({ status }) => status === 201)?.body.id
    await client.post(`/api/v1/generations/${accepted}/cancel`, undefined, as(ada))
    expect(tally(await twenty((on) => placeOrder(ada, on)))).toEqual({ '201': 1, '429 quota.jobs_under_way': 19 })
    const { body } = await client.get('/api/v1/credits/balance', as(ada))
    expect(body.balance).toBe(1_000 - 4)
  })

  test('of sessions ends the one that was seen least recently, at exactly as many as may live', async () => {
    const ada = await register(client)
    const second = (await login(ada)).body.access_token
    await sql`update sessions set last_seen_at = now() + interval '1 second' where user_id = ${ada.id}
                and id = (select id from sessions where user_id = ${ada.id} order by id limit 1)`
    await login(ada)
    expect((await login(ada)).status).toBe(200)
    const statuses = await Promise.all(
      [ada.token, second].map(async (token) => (await client.get('/api/v1/auth/me', { token })).status),
    )
    expect(statuses).toEqual([200, 401])
    expect(tally(await twenty((on) => login(ada, on)))).toEqual({ '200': 20 })
    const live = await sql`select from sessions where user_id = ${ada.id} and ended_at is null`
    const replaced = await sql`select from sessions where user_id = ${ada.id} and end_reason = 'replaced'`
    expect([live.length, replaced.length]).toEqual([3, 21])
  })
})

describe('the quota of stored bytes', () => {
  const usageOf = async ({ id }: Person) => {
    const [row] = await sql<{ counted: number; held: number }[]>`
      select coalesce((select media_bytes from account_usage where user_id = ${id}), 0)::float8 as counted,
             coalesce((select sum(bytes) from media join media_objects using (sha256) where owner_id = ${id}), 0)::float8 as held`
    return row
  }
  const upload = (person: Person, bytes: Uint8Array, on = client) =>
    on.post('/api/v1/media', new Uint8Array(bytes), { ...as(person), headers: { 'content-type': 'image/png' } })

  test('admits exactly the uploads that fit of concurrent ones, and a deletion gives back', async () => {
    const ada = await register(client)
    const picture = new Uint8Array(await newPicture())
    const first = await upload(ada, picture)
    const { bytes } = first.body
    const limited = await startApp({
      connection: app.connection,
      config: { limits: 'on', policy: policyOf({ stored_bytes: 3 * bytes + 1 }), dbConnections: 30 },
    })
    try {
      const on = api(limited.baseUrl)
      const answers = await Promise.all([1, 2].map(() => upload(ada, picture, on)))
      const more = await Promise.all([1, 2, 3, 4].map(() => upload(ada, picture, on)))
      expect(tally([...answers, ...more])['409 quota.stored_bytes']).toBeGreaterThanOrEqual(4)
      expect(await usageOf(ada)).toEqual({ counted: 3 * bytes, held: 3 * bytes })
      expect(refusedOf(more)).toMatchObject({ limit: 3 * bytes + 1, used: 3 * bytes, code: 'quota.stored_bytes' })
      await client.delete(`/api/v1/media/${first.body.id}`, as(ada))
      expect(await usageOf(ada)).toEqual({ counted: 2 * bytes, held: 2 * bytes })
      expect(codeOf(await upload(ada, picture, on))).toBe('201')
      expect(codeOf(await upload(ada, picture, on))).toBe('409 quota.stored_bytes')
      expect(codeOf(await placeOrder(ada, on))).toBe('409 quota.stored_bytes')
    } finally {
      await limited.close()
    }
  })

  test('counts what unfinished jobs may store, and what they stored once they are completed', async () => {
    const ada = await register(client)
    const limited = await startApp({
      connection: app.connection,
      config: {
        limits: 'on',
        policy: policyOf({ stored_bytes: 2 * imageBytes + 1_000_000 }),
        dbConnections: 30,
        jobConcurrency: 0,
      },
    })
    const working = await startApp({ connection: app.connection, config: { jobConcurrency: 1 } }).catch(
      async (error) => {
        await limited.close()
        throw error
      },
    )
    try {
      const on = api(limited.baseUrl)
      await sql`update generation_jobs set run_after = now() + interval '1 hour'`
      await sql`alter table generation_jobs alter column run_after set default now() + interval '1 hour'`
      const answers = await Promise.all([1, 2, 3, 4].map(() => placeOrder(ada, on)))
      expect(tally(answers)).toEqual({ '201': 2, '409 quota.stored_bytes': 2 })
      expect(refusedOf(answers)).toMatchObject({ used: 2 * imageBytes, needed: imageBytes })
      await sql`alter table generation_jobs alter column run_after set default clock_timestamp()`
      await sql`update generation_jobs set run_after = now()`
      working.services.runner.wake()
      const deadlineMs = Date.now() + 50_000
      while ((await sql`select from generation_jobs where owner_id = ${ada.id}`).length > 0 && Date.now() < deadlineMs)
        await Bun.sleep(20)
      const usage = await usageOf(ada)
      expect(usage?.counted).toBe(usage?.held ?? -1)
      expect(usage?.counted).toBeWithin(1, imageBytes)
      expect(codeOf(await placeOrder(ada, on))).toBe('201')
      const ids = await sql<{ id: string }[]>`select id from generations where owner_id = ${ada.id}`
      for (const { id } of ids) await client.delete(`/api/v1/generations/${id}`, as(ada))
      expect(await usageOf(ada)).toEqual({ counted: 0, held: 0 })
    } finally {
      await working.close()
      await limited.close()
    }
  })

  test('follows every way to change media in SQL, and can be counted anew', async () => {
    const [ada, bob] = [await register(client), await register(client)]
    const picture = await newPicture()
    const { bytes, id } = (await upload(ada, picture)).body
    await upload(bob, picture)
    await sql`update media set owner_id = ${bob.id} where id = ${id}`
    expect([await usageOf(ada), await usageOf(bob)]).toEqual([
      { counted: 0, held: 0 },
      { counted: 2 * bytes, held: 2 * bytes },
    ])
    await sql`insert into account_usage (user_id, media_bytes) values (${ada.id}, 7) on conflict do nothing`
    await sql`update account_usage set media_bytes = 7`
    await sql`delete from account_usage where user_id = ${bob.id}`
    await sql`select recount_usage()`
    expect([await usageOf(ada), await usageOf(bob)]).toEqual([
      { counted: 0, held: 0 },
      { counted: 2 * bytes, held: 2 * bytes },
    ])
    await sql`delete from media where owner_id = ${bob.id}`
    expect(await usageOf(bob)).toEqual({ counted: 0, held: 0 })
  })
})

test('the count of projects follows every way to change them in SQL, and can be counted anew', async () => {
  const [ada, bob] = [await register(client), await register(client)]
  const counted = async () => {
    const rows = await sql<{ projects: number; owned: number }[]>`
      select coalesce((select projects from account_usage where user_id = u.id), 0)::int as projects,
             (select count(*)::int from projects where owner_id = u.id) as owned
        from unnest(${[ada.id, bob.id]}::uuid[]) with ordinality as u (id, n) order by u.n`
    return rows.map(({ projects, owned }) => (projects === owned ? projects : `${projects} instead of ${owned}`))
  }
  await sql`
    insert into projects (id, owner_id, name)
    select gen_random_uuid(), owner_id::uuid, 'P' from unnest(${[ada.id, ada.id, bob.id]}::text[]) owner_id`
  expect(await counted()).toEqual([2, 1])
  await sql`update projects set owner_id = ${bob.id} where id = (select id from projects where owner_id = ${ada.id} limit 1)`
  await sql`update projects set name = 'Q' where owner_id = ${bob.id}`
  expect(await counted()).toEqual([1, 2])
  await sql`update account_usage set projects = 9`
  await sql`delete from account_usage where user_id = ${bob.id}`
  await sql`select recount_usage()`
  expect(await counted()).toEqual([1, 2])
  await sql`delete from projects where owner_id in (${ada.id}, ${bob.id})`
  expect(await counted()).toEqual([0, 0])
})

describe('an account with figures of its own', () => {
  test('is held to them instead of those of its plan, from the next call on', async () => {
    const [ada, operator] = [await register(client), await register(client)]
    await sql`update users set role = 'admin' where id = ${operator.id}`
    await app.caughtUp()
    const limits = { projects: 4, teams: 1, jobs_under_way: 1, sessions: 1 }
    expect((await client.patch(`/api/v1/users/${ada.id}`, { limits }, as(operator))).status).toBe(200)
    const all = [...(await twenty((on) => createProject(ada, on))), await createTeam(ada), await createTeam(ada)]
    expect(tally(all)).toEqual({ '201': 5, '409 quota.projects': 16, '409 quota.teams': 1 })
    expect([await placeOrder(ada), await placeOrder(ada)].map(codeOf)).toEqual(['201', '429 quota.jobs_under_way'])
    expect((await login(ada)).status).toBe(200)
    expect((await client.get('/api/v1/auth/me', as(ada))).status).toBe(401)
  })
})

test('the quotas of an account are shown with their use, to itself and to operators', async () => {
  const [ada, operator] = [await register(client), await register(client)]
  await sql`update users set role = 'admin' where id = ${operator.id}`
  await sql`update users set limits = '{"teams": 7}' where id = ${ada.id}`
  await app.caughtUp()
  for (const call of [createProject, createTeam, placeOrder, login]) await call(ada)
  const [own, seen] = [
    await client.get('/api/v1/auth/me/quotas', as(ada)),
    await client.get(`/api/v1/users/${ada.id}/quotas`, as(operator)),
  ]
  expect(own.body).toEqual({
    stored_bytes: { limit: 5_000_000_000, used: imageBytes },
    projects: { limit: 3, used: 1 },
    teams: { limit: 7, used: 1 },
    team_members: { limit: 3 },
    sessions: { limit: 3, used: 2 },
    jobs_under_way: { limit: 4, used: 1 },
  })
  expect(seen.body).toEqual(own.body)
})

describe('an account above its quota', () => {
  test('keeps what it has and cannot add to it', async () => {
    const ada = await register(client)
    for (let count = 0; count < 3; count += 1) await createProject(ada)
    const lowered = await startApp({
      connection: app.connection,
      config: { limits: 'on', policy: policyOf({ projects: 1 }), dbConnections: 20 },
    })
    const on = api(lowered.baseUrl)
    const refused = await createProject(ada, on)
    expect([codeOf(refused), refused.body.limit, refused.body.used]).toEqual(['409 quota.projects', 1, 3])
    expect((await on.get('/api/v1/projects', as(ada))).body.items).toHaveLength(3)
    await lowered.close()
  })

  test('is only logged in the mode monitor, and not counted in the mode off', async () => {
    const ada = await register(client)
    const lines: object[] = []
    const log = { ...createLog('silent'), info: (fields: object) => void lines.push(fields) }
    for (const [limits, logged] of [
      ['monitor', 1],
      ['off', 0],
    ] as const) {
      lines.length = 0
      const lenient = await startApp({
        connection: app.connection,
        config: { limits, policy: policyOf({ projects: 1 }), dbConnections: 20 },
        log,
      })
      const on = api(lenient.baseUrl)
      await sql`delete from projects where owner_id = ${ada.id}`
      for (let count = 0; count < 2; count += 1) expect(codeOf(await createProject(ada, on))).toBe('201')
      expect(lines.filter((line) => 'event' in line && line.event === 'quota.exceeded')).toHaveLength(logged)
      await lenient.close()
    }
  })
})
