import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { newId } from '../../src/kit/id.ts'
import { createLog } from '../../src/platform/log.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { holdSessions, holdUser } from '../faults/support.ts'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const path = '/api/v1/users'

/** A person as operators see the account. */
const asAccount = ({ user }: Person) => ({ ...user, limits: null })

let app: TestApp
let client: Api
let sql: Sql
let admin: Person
const written: string[] = []

beforeAll(async () => {
  app = await startApp({
    // Enough connections for all requests to wait on locks in the database instead of waiting in the pool.
    config: { dbConnections: 100 },
    log: createLog('info', { write: (line: string) => void written.push(line) }),
  })
  client = api(app.baseUrl)
  sql = connectOnce(app.connection)
  admin = await operator()
})
afterAll(async () => {
  await sql.end()
  await app.close()
})

const operator = async (): Promise<Person> => {
  const person = await register(client)
  await sql`update users set role = 'admin' where id = ${person.id}`
  return person
}
const refusal = ({ status, body }: Answer) => `${status} ${body?.code}`
const patch = (id: string, changes: object, by: Person = admin) =>
  client.patch(`${path}/${id}`, changes, { token: by.token })
const suspend = (id: string, by?: Person) => patch(id, { status: 'suspended' }, by)
const list = async (query: string) => {
  const { status, body } = await client.get(path + query, { token: admin.token })
  expect([query, status]).toEqual([query, 200])
  return body as { items: { id: string; status: string }[]; next_cursor: string | null }
}
const accountOf = async (id: string) => (await client.get(`${path}/${id}`, { token: admin.token })).body
const me = (token: string) => client.get('/api/v1/auth/me', { token })
const login = ({ email, password }: Person) => client.post('/api/v1/auth/login', { email, password })
const refresh = (refresh_token: string) => client.post('/api/v1/auth/refresh', { refresh_token })

type Pair = { access_token: string; refresh_token: string }
const pairsOf = (answers: readonly Answer[]): Pair[] =>
  answers.filter(({ status }) => status === 200).map(({ body }) => body)

/** Expects every issued token to be refused. */
const expectRefused = async (pairs: readonly Pair[]) => {
  for (const { access_token, refresh_token } of pairs) {
    expect(refusal(await me(access_token))).toBe('401 identity.not_signed_in')
    expect(refusal(await refresh(refresh_token))).toBe('401 identity.refresh_token_invalid')
  }
}
/** Expects every issued token to be refused while the account is suspended and after it is active again. */
const expectRefusedForGood = async ({ id }: Person, pairs: readonly Pair[]) => {
  await expectRefused(pairs)
  expect((await patch(id, { status: 'active' })).status).toBe(200)
  await expectRefused(pairs)
}
const firstPair = ({ token, refreshToken }: Person): Pair => ({ access_token: token, refresh_token: refreshToken })

describe('a suspended account', () => {
  test('is refused at its next request, although its session was cached', async () => {
    for (let round = 0; round < 10; round += 1) {
      const person = await register(client)
      expect((await me(person.token)).status).toBe(200)
      expect((await suspend(person.id)).body).toMatchObject({ id: person.id, status: 'suspended' })
      await expectRefused([firstPair(person)])
      expect(refusal(await login(person))).toBe('403 identity.account_suspended')
    }
  })

  test('can sign in again once it is active, but its earlier sessions stay ended', async () => {
    const person = await register(client)
    const other = pairsOf([await login(person)])
    for (const { access_token } of [firstPair(person), ...other]) expect((await me(access_token)).status).toBe(200)
    await suspend(person.id)
    expect((await patch(person.id, { status: 'active' })).body.status).toBe('active')
    await expectRefused([firstPair(person), ...other])
    const { body } = await login(person)
    expect((await me(body.access_token)).body).toMatchObject({ id: person.id, status: 'active' })
  })

  test('has its live sessions ended with that reason; ended sessions and those of other users are unchanged', async () => {
    const [person, stranger] = await Promise.all([register(client), register(client)])
    const [left] = pairsOf([await login(person)])
    await client.post('/api/v1/auth/logout', undefined, { token: left?.access_token ?? '' })
    await suspend(person.id)
    // A second suspension does not change them.
    await suspend(person.id)
    const rows = await sql<{ end_reason: string }[]>`
      select end_reason from sessions where user_id = ${person.id} order by id`
    expect(rows.map(({ end_reason }) => end_reason)).toEqual(['suspended', 'logout'])
    expect((await me(stranger.token)).status).toBe(200)
  })

  test('is denied every action in the next check by a service', async () => {
    const person = await register(client)
    const project = await client.post('/api/v1/projects', { name: 'Kept' }, { token: person.token })
    const { body } = await client.post(
      '/api/v1/service-keys',
      { name: 'asking', scopes: ['authorization:check'] },
      { token: admin.token },
    )
    const ask = async () => {
      const resource = { type: 'project', id: project.body.id }
      const question = { user_id: person.id, action: 'read', resource }
      return (await client.post('/api/v1/authorization/check', question, { token: body.key })).body
    }
    expect(await ask()).toEqual({ allowed: true, reason: 'ownership.project_owner' })
    await suspend(person.id)
    expect(await ask()).toEqual({ allowed: false, reason: 'account.suspended' })
    await patch(person.id, { status: 'active' })
    expect((await ask()).allowed).toBe(true)
  })

  test('keeps its plan and its role, and both can still be changed', async () => {
    const person = await operator()
    await suspend(person.id)
    expect(await accountOf(person.id)).toMatchObject({ status: 'suspended', role: 'admin', plan: 'free' })
    const { body } = await patch(person.id, { role: 'user', plan: 'enterprise' })
    expect(body).toMatchObject({ status: 'suspended', role: 'user', plan: 'enterprise' })
    expect(body).toEqual(await accountOf(person.id))
  })
})

describe('a suspension concurrent with', () => {
  const rounds = 3
  const many = 6

  type Held = Awaited<ReturnType<typeof holdUser>>
  /** Queues the suspension and the other requests behind a held row lock in the given order, then releases the lock. */
  const race = async (held: Held, first: 'suspension' | 'others', person: Person, other: () => Promise<Answer>) => {
    const others = () => Array.from({ length: many }, other)
    const early = first === 'suspension' ? [suspend(person.id)] : others()
    await held.waiting(early.length)
    const late = first === 'suspension' ? others() : [suspend(person.id)]
    await held.waiting(early.length + late.length)
    await held.release()
    const answers = await Promise.all([...early, ...late])
    const at = first === 'suspension' ? 0 : answers.length - 1
    expect(answers[at]?.status).toBe(200)
    return answers.filter((_, index) => index !== at)
  }

  for (const first of ['suspension', 'others'] as const) {
    test(`sign-ins leaves no usable session when the ${first} came first`, async () => {
      for (let round = 0; round < rounds; round += 1) {
        const person = await register(client)
        const answers = await race(await holdUser(app.connection, person.id), first, person, () => login(person))
        const statuses = new Set(answers.map(({ status }) => status))
        expect([...statuses]).toEqual([first === 'suspension' ? 403 : 200])
        await expectRefusedForGood(person, [firstPair(person), ...pairsOf(answers)])
      }
    }, 60_000)

    test(`refreshes leaves no usable session when the ${first} came first`, async () => {
      for (let round = 0; round < rounds; round += 1) {
        const person = await register(client)
        const held = await holdSessions(app.connection, person.id)
        const answers = await race(held, first, person, () => refresh(person.refreshToken))
        await expectRefusedForGood(person, [firstPair(person), ...pairsOf(answers)])
      }
    }, 60_000)
  }

  test('continuous sign-ins and refreshes leaves no issued token usable', async () => {
    for (let round = 0; round < rounds; round += 1) {
      const person = await register(client)
      const pairs: Pair[] = [firstPair(person)]
      let suspended = false
      const keepSigningIn = async () => {
        while (!suspended) pairs.push(...pairsOf([await login(person)]))
      }
      const keepRefreshing = async () => {
        let pair = pairsOf([await login(person)])[0]
        while (pair !== undefined) {
          pairs.push(pair)
          await me(pair.access_token)
          pair = pairsOf([await refresh(pair.refresh_token)])[0]
        }
      }
      const all = [keepSigningIn(), keepSigningIn(), keepRefreshing(), keepRefreshing(), keepRefreshing()]
      while (pairs.length < 20) await Bun.sleep(1)
      expect((await suspend(person.id)).status).toBe(200)
      suspended = true
      const answered = await Promise.all(pairs.map(({ access_token }) => me(access_token)))
      expect(answered.filter(({ status }) => status === 200)).toEqual([])
      await Promise.all(all)
      await expectRefusedForGood(person, pairs)
    }
  }, 60_000)
})

describe('concurrent changes of accounts', () => {
  test('are applied one after the other, and each answer is the committed state', async () => {
    const person = await register(client)
    const changes = [
      { plan: 'pro' },
      { role: 'admin' },
      { plan: 'enterprise' },
      { status: 'suspended' },
      { role: 'user' },
      { status: 'active' },
    ]
    const held = await holdUser(app.connection, person.id)
    const asked = changes.map((each) => patch(person.id, each))
    // The first waits for the account's lock. The others wait for the first, because one operator sends them all.
    await held.waiting(asked.length)
    const released = new Date().toISOString()
    await held.release()
    const answers = await Promise.all(asked)
    expect(answers.map(({ status }) => status)).toEqual(changes.map(() => 200))
    // `updated_at` is the time of the change, not of the request.
    expect(answers.filter(({ body }) => body.updated_at < released)).toEqual([])
    const last = await accountOf(person.id)
    type Step = { body: Answer['body']; change: object | undefined }
    /** Whether some order of the changes explains every answer and ends in the stored state. */
    const isHistory = (state: Answer['body'], steps: readonly Step[]): boolean =>
      steps.length === 0
        ? Bun.deepEquals(state, last)
        : steps.some(
            ({ body, change }, index) =>
              Bun.deepEquals(body, { ...state, ...change, updated_at: body.updated_at }) &&
              body.updated_at >= state.updated_at &&
              isHistory(body, steps.toSpliced(index, 1)),
          )
    const steps = answers.map(({ body }, index) => ({ body, change: changes[index] }))
    expect([steps, isHistory(asAccount(person), steps)]).toEqual([steps, true])
  })

  test('by two operators who suspend or demote each other leave exactly one operator', async () => {
    for (const changes of [{ status: 'suspended' }, { role: 'user' }]) {
      for (let round = 0; round < 8; round += 1) {
        const [one, two] = await Promise.all([operator(), operator()])
        const answers = await Promise.all([patch(two.id, changes, one), patch(one.id, changes, two)])
        expect(answers.map(({ status }) => status === 200).sort()).toEqual([false, true])
        const rows = await sql`
          select from users where id in (${one.id}, ${two.id}) and role = 'admin' and status = 'active'`
        expect(rows).toHaveLength(1)
      }
    }
  })

  test('by two operators who both passed the guard: the second is refused, since it is no longer an operator', async () => {
    for (const [changes, refusedAs] of [
      [{ status: 'suspended' }, '401 identity.not_signed_in'],
      [{ role: 'user' }, '403 access.admins_only'],
    ] as const) {
      const people = await Promise.all([operator(), operator()])
      const [one, two] = people.sort((a, b) => a.id.localeCompare(b.id))
      // Both have passed the guard and wait for the row that both lock first.
      const held = await holdUser(app.connection, one.id)
      const asked = [patch(two.id, changes, one)]
      await held.waiting(1)
      asked.push(patch(one.id, changes, two))
      await held.waiting(2)
      await held.release()
      const answers = await Promise.all(asked)
      expect(answers.map(({ status }) => status).sort()).toEqual([200, Number(refusedAs.slice(0, 3))])
      expect(answers.map(refusal)).toContain(refusedAs)
    }
  })
})

describe('an operator', () => {
  test('cannot suspend or demote itself, but can change its plan', async () => {
    const own = await operator()
    for (const changes of [{ status: 'suspended' }, { role: 'user' }, { plan: 'pro', status: 'suspended' }]) {
      expect(refusal(await patch(own.id, changes, own))).toBe('409 user.own_account')
    }
    expect(await accountOf(own.id)).toMatchObject({ status: 'active', role: 'admin', plan: 'free' })
    const { status, body } = await patch(own.id, { plan: 'pro', status: 'active', role: 'admin' }, own)
    expect([status, body.plan]).toEqual([200, 'pro'])
  })

  test('that is demoted is refused at its next operator request and stays signed in', async () => {
    const other = await operator()
    const see = () => client.get(path, { token: other.token })
    expect((await see()).status).toBe(200)
    expect((await patch(other.id, { role: 'user' })).status).toBe(200)
    expect(refusal(await see())).toBe('403 access.admins_only')
    expect((await me(other.token)).body.role).toBe('user')
    await patch(other.id, { role: 'admin' })
    expect((await see()).status).toBe(200)
  })

  test('can change only status, role and plan of an account, and must send at least one of them', async () => {
    const person = await register(client)
    for (const changes of [
      {},
      { status: 'deleted' },
      { role: 'owner' },
      { plan: null },
      { plan: 'pro', email: 'other@example.com' },
      { password_hash: 'x' },
      { display_name: 'Other' },
    ]) {
      expect([changes, refusal(await patch(person.id, changes))]).toEqual([changes, '422 request.invalid'])
    }
    expect(await accountOf(person.id)).toEqual(asAccount(person))
  })

  test('can read but not change a closed account, and gets 404 for an unknown one', async () => {
    const person = await register(client)
    await client.delete('/api/v1/auth/me', { token: person.token })
    const closed = await accountOf(person.id)
    expect(closed).toMatchObject({ id: person.id, status: 'deleted', email: null, display_name: '' })
    for (const changes of [{ status: 'active' }, { status: 'suspended' }, { role: 'admin' }, { plan: 'pro' }]) {
      expect(refusal(await patch(person.id, changes))).toBe('409 user.deleted')
    }
    expect(await accountOf(person.id)).toEqual(closed)
    const unknown = newId()
    expect(refusal(await patch(unknown, { plan: 'pro' }))).toBe('404 user.not_found')
    expect(refusal(await client.get(`${path}/${unknown}`, { token: admin.token }))).toBe('404 user.not_found')
  })

  test('is logged with the changed account and its new values, but without an e-mail address', async () => {
    const person = await register(client)
    written.length = 0
    await patch(person.id, { plan: 'pro' })
    await patch(newId(), { plan: 'pro' })
    const lines = written.map((line) => JSON.parse(line)).filter(({ event }) => event === 'user.changed')
    expect(lines).toHaveLength(1)
    expect(lines[0]).toMatchObject({ user_id: person.id, by: admin.id, plan: 'pro' })
    expect(written.join('')).not.toContain(person.email)
  })
})

describe('the list of accounts', () => {
  test('pages through all accounts, newest first, with or without a status filter', async () => {
    const people = await Promise.all(Array.from({ length: 5 }, () => register(client)))
    for (const { id } of people) await suspend(id)
    for (const filter of ['', '&status=suspended', '&status=active']) {
      const whole = (await list(`?limit=100${filter}`)).items
      const ids: string[] = []
      for (let cursor = ''; ; ) {
        const { items, next_cursor } = await list(`?limit=3${filter}${cursor}`)
        ids.push(...items.map(({ id }) => id))
        if (next_cursor === null || ids.length >= whole.length) break
        cursor = `&cursor=${next_cursor}`
      }
      expect(ids.slice(0, whole.length)).toEqual(whole.map(({ id }) => id))
      expect(ids).toEqual(ids.toSorted().reverse())
      const wanted = filter.split('=')[1]
      if (wanted !== undefined) expect(new Set(whole.map(({ status }) => status))).toEqual(new Set([wanted]))
    }
    expect((await list('?limit=5&status=suspended')).items.map(({ id }) => id).sort()).toEqual(
      people.map(({ id }) => id).sort(),
    )
  })

  test('finds an e-mail address in every spelling that sign-in accepts, but no part of one', async () => {
    const person = await register(client, { email: `caf\u00e9-${newId()}@example.com` })
    for (const email of [person.email, person.email.toUpperCase(), person.email.normalize('NFD')]) {
      expect(await list(`?email=${encodeURIComponent(email)}`)).toEqual({
        items: [asAccount(person)],
        next_cursor: null,
      })
    }
    for (const other of [person.email.slice(1), `${person.email}.au`, `${'\u0130'.repeat(200)}@example.com`]) {
      expect((await list(`?email=${encodeURIComponent(other)}`)).items).toEqual([])
    }
    // An unescaped plus is a space, and no address contains a space.
    const spaced = await client.get(`${path}?email=ada+tag@example.com`, { token: admin.token })
    expect(refusal(spaced)).toBe('422 request.invalid')
  })

  test('contains no password or password hash, like every other answer', async () => {
    const person = await register(client)
    const fields = [
      'created_at',
      'display_name',
      'email',
      'email_verified',
      'id',
      'limits',
      'plan',
      'role',
      'second_factor',
      'status',
      'updated_at',
    ]
    const [listed] = (await list('?limit=1')).items
    for (const shown of [listed, await accountOf(person.id), (await patch(person.id, { plan: 'pro' })).body]) {
      expect(Object.keys(shown).sort()).toEqual(fields)
    }
  })
})

describe('the first operator', () => {
  /** Starts an instance with ADMIN_EMAIL and returns the events it logged. */
  const startWith = async (adminEmail: string): Promise<{ event: string; user_id?: string }[]> => {
    const lines: string[] = []
    const log = createLog('info', { write: (line: string) => void lines.push(line) })
    const other = await startApp({ connection: app.connection, config: { adminEmail }, log })
    await other.close()
    return lines.map((line) => JSON.parse(line)).filter(({ event }) => event !== undefined && event !== 'limits.off')
  }

  test('is the account with the address in ADMIN_EMAIL at the start of an instance', async () => {
    const [person, stranger] = await Promise.all([register(client), register(client)])
    expect(await startWith(person.email)).toMatchObject([{ event: 'user.promoted', user_id: person.id }])
    const promoted = await accountOf(person.id)
    expect(promoted).toMatchObject({ role: 'admin', status: 'active' })
    expect((await accountOf(stranger.id)).role).toBe('user')
    // It is an operator already: nothing changes and nothing is logged.
    expect(await startWith(person.email)).toEqual([])
    expect(await accountOf(person.id)).toEqual(promoted)
    const other = await startApp({ connection: app.connection })
    expect((await api(other.baseUrl).get(path, { token: person.token })).status).toBe(200)
    await other.close()
  })

  test('is not an account that registers that address while the instance runs', async () => {
    const adminEmail = `first-${newId()}@example.com`
    const other = await startApp({ connection: app.connection, config: { adminEmail } })
    const there = api(other.baseUrl)
    const person = await register(there, { email: adminEmail })
    expect(person.user.role).toBe('user')
    expect(refusal(await there.get(path, { token: person.token }))).toBe('403 access.admins_only')
    await other.close()
  })

  test('is not a suspended or closed account, and the start logs that the promotion is pending', async () => {
    const [suspended, closed] = await Promise.all([register(client), register(client)])
    await suspend(suspended.id)
    await client.delete('/api/v1/auth/me', { token: closed.token })
    for (const { email, id } of [suspended, closed]) {
      expect(await startWith(email)).toMatchObject([{ event: 'user.promotion_pending' }])
      expect((await accountOf(id)).role).toBe('user')
    }
  })
})
