import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { randomUUID } from 'node:crypto'
import { manualClock } from '../../src/kit/clock.ts'
import { until } from '../faults/support.ts'
import { type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const check = '/api/v1/authorization/check'

type Counted = TestApp & { client: Api; statements: string[] }

/** An app whose statements are recorded. Its pools are connected first, so that only the requests' statements count. */
const startCounted = async (connection?: TestApp['connection']): Promise<Counted> => {
  const statements: string[] = []
  const app = await startApp({ onStatement: (text) => void statements.push(text), ...(connection && { connection }) })
  await app.services.database.warm()
  statements.length = 0
  return { ...app, client: api(app.baseUrl), statements }
}

describe('an authorization check', () => {
  let home: Counted
  let owner: Person
  let stranger: Person
  let project: { type: 'project'; id: string }
  let generation: { type: 'generation'; id: string }
  let picture: { type: 'media'; id: string }
  const fresh: Counted[] = []

  beforeAll(async () => {
    home = await startCounted()
    owner = await register(home.client)
    stranger = await register(home.client)
    const { body } = await home.client.post(
      '/api/v1/projects',
      { name: 'Counted', visibility: 'public' },
      { token: owner.token },
    )
    project = { type: 'project', id: body.id }
    const made = await home.client.post(
      '/api/v1/generations',
      { model: 'local/procedural', prompt: 'p', parameters: { width: 64, height: 64 }, project_id: body.id },
      { token: owner.token },
    )
    generation = { type: 'generation', id: made.body.id }
    const working = await startApp({ connection: home.connection, config: { jobConcurrency: 1 } })
    const list = () => home.client.get(`/api/v1/generations/${made.body.id}/media`, { token: owner.token })
    await until(async () => (await list()).body.items.length === 1, 'the picture has been generated')
    picture = { type: 'media', id: (await list()).body.items[0].id }
    await working.close()
  })
  afterAll(async () => {
    for (const app of fresh) await app.close()
    await home.close()
  })

  /** An instance with empty caches. */
  const startCold = async () => {
    const app = await startCounted(home.connection)
    fresh.push(app)
    return app
  }
  const ask = (app: Counted, person: Person, resource: object, action = 'read') =>
    app.client.post(check, { action, resource }, { token: person.token })
  /** The result of `work` and the statements sent while it ran. */
  const counting = async <T>(app: Counted, work: () => Promise<T>) => {
    app.statements.length = 0
    const result = await work()
    return { result, statements: [...app.statements] }
  }

  test('that is cold costs one statement for a generation in a project, session and account included', async () => {
    const app = await startCold()
    const { result, statements } = await counting(app, () => ask(app, stranger, generation))
    expect(result.body).toEqual({ allowed: true, reason: 'visibility.public' })
    expect(statements).toHaveLength(1)
  })

  test('that is warm costs no statement, for any cached user and action', async () => {
    const app = await startCold()
    for (const person of [owner, stranger]) await ask(app, person, generation)
    const { result, statements } = await counting(app, async () => {
      const answers = []
      for (let count = 0; count < 100; count += 1) {
        answers.push(await ask(app, owner, generation, 'delete'), await ask(app, stranger, generation, 'write'))
        answers.push(await ask(app, stranger, project))
      }
      return answers.map(({ body }) => body.allowed)
    })
    expect(result.slice(0, 3)).toEqual([true, false, true])
    expect(statements).toEqual([])
  })

  test('that is warm costs no statement as a batch or with an explanation', async () => {
    const app = await startCold()
    await ask(app, owner, generation)
    const checks = Array.from({ length: 200 }, () => ({ action: 'read', resource: generation }))
    const { statements } = await counting(app, async () => {
      await app.client.post(`${check}/batch`, { checks }, { token: owner.token })
      const { body } = await app.client.post(
        '/api/v1/authorization/explain',
        { action: 'read', resource: generation },
        { token: owner.token },
      )
      expect(body.layers.find(({ layer }: { layer: number }) => layer === 7).tier).toBe('l1')
    })
    expect(statements).toEqual([])
  })

  test('on an unknown id costs one statement, then none while its negative entry is cached', async () => {
    const app = await startCold()
    const nothing = { type: 'generation', id: randomUUID() }
    expect((await counting(app, () => ask(app, owner, nothing))).statements).toHaveLength(1)
    const { result, statements } = await counting(app, () => ask(app, owner, nothing))
    expect(result.body).toEqual({ allowed: false, reason: 'resource.not_visible' })
    expect(statements).toEqual([])
  })

  test('of 200 different cold resources in a batch costs one statement', async () => {
    const app = await startCold()
    const unknown = Array.from({ length: 198 }, (_, index) => ({
      type: index % 2 === 0 ? 'project' : 'generation',
      id: randomUUID(),
    }))
    const checks = [project, generation, ...unknown].map((resource) => ({ action: 'read', resource }))
    const { result, statements } = await counting(app, () =>
      app.client.post(`${check}/batch`, { checks }, { token: stranger.token }),
    )
    const allowed = result.body.results.map((decision: { allowed: boolean }) => decision.allowed)
    expect(allowed).toEqual([true, true, ...Array(198).fill(false)])
    expect(statements).toHaveLength(1)
  })

  test('sent a thousand times at once for one cold resource costs one statement (single-flight)', async () => {
    const app = await startCold()
    const { result, statements } = await counting(app, () =>
      Promise.all(Array.from({ length: 1_000 }, () => ask(app, stranger, generation))),
    )
    expect(new Set(result.map(({ status, body }) => `${status} ${body.reason}`))).toEqual(
      new Set(['200 visibility.public']),
    )
    expect(statements).toHaveLength(1)
  })

  test('on cold media costs one statement, like a cold download; a warm download costs none', async () => {
    const app = await startCold()
    const cold = await counting(app, () => ask(app, stranger, picture, 'download'))
    expect(cold.result.body).toEqual({ allowed: true, reason: 'visibility.public' })
    expect(cold.statements).toHaveLength(1)
    const content = await startCold()
    const path = `/api/v1/media/${picture.id}/content`
    const fetchBytes = async () =>
      (await fetch(`${content.baseUrl}${path}`, { headers: { authorization: `Bearer ${stranger.token}` } })).status
    expect(await counting(content, fetchBytes)).toMatchObject({ result: 200, statements: [expect.any(String)] })
    expect(await counting(content, fetchBytes)).toEqual({ result: 200, statements: [] })
  })

  test('made by reading a cold project costs one statement, and the row another', async () => {
    const app = await startCold()
    const { statements } = await counting(app, () =>
      app.client.get(`/api/v1/projects/${project.id}`, { token: stranger.token }),
    )
    expect(statements).toHaveLength(2)
  })

  test('of the token alone, to read one’s own account, costs no statement when warm, and one after each change of it', async () => {
    const app = await startCold()
    const me = () => app.client.get('/api/v1/auth/me', { token: owner.token })
    const cold = await counting(app, me)
    expect([cold.result.status, cold.statements.length]).toEqual([200, 2])
    expect(await counting(app, async () => [(await me()).body, (await me()).body])).toEqual({
      result: [cold.result.body, cold.result.body],
      statements: [],
    })
    for (const display_name of ['Renamed', 'Renamed again']) {
      await home.client.patch('/api/v1/auth/me', { display_name }, { token: owner.token })
      const changed = await counting(app, me)
      expect([changed.result.body.display_name, changed.statements.length]).toEqual([display_name, 1])
      expect((await counting(app, me)).statements).toEqual([])
    }
  })

  test('is not reached by a refused request, which costs no statement', async () => {
    const app = await startCold()
    const { statements } = await counting(app, async () => {
      await app.client.get('/api/v1/auth/me')
      await app.client.get('/api/v1/auth/me', { token: `${owner.token}x` })
      await app.client.get('/api/v1/auth/me', { token: 'A'.repeat(100_000) })
      await app.client.get('/nope')
      await app.client.get('/health')
      await app.client.get('/.well-known/jwks.json')
    })
    expect(statements).toEqual([])
  })

  test('is not reached by refused input: one statement knows its caller, once', async () => {
    const app = await startCold()
    const refused = () =>
      counting(app, async () => [
        (await app.client.post(check, { action: 'fly' }, { token: owner.token })).status,
        (await app.client.post(check, '{', { token: owner.token })).status,
      ])
    const first = await refused()
    expect([first.result, first.statements.length]).toEqual([[422, 400], 1])
    const second = await refused()
    expect([second.result, second.statements.length]).toEqual([[422, 400], 0])
  })

  test('with one of a thousand tokens of unknown key ids costs one statement in all, which reloads the keys', async () => {
    const clock = manualClock()
    const statements: string[] = []
    const app = await startApp({
      clock,
      onStatement: (text) => void statements.push(text),
      connection: home.connection,
    })
    try {
      await app.services.database.warm()
      const signature = Buffer.alloc(64).toString('base64url')
      const payload = Buffer.from(JSON.stringify({ exp: 4_102_444_800 })).toString('base64url')
      const forged = () => {
        const header = JSON.stringify({ alg: 'EdDSA', typ: 'at+jwt', kid: randomUUID() })
        return `${Buffer.from(header).toString('base64url')}.${payload}.${signature}`
      }
      const attack = async () => {
        statements.length = 0
        const attempts = Array.from({ length: 1_000 }, () =>
          Promise.resolve(app.services.identity.claimsOf(forged())).catch(() => 'refused'),
        )
        expect(new Set(await Promise.all(attempts))).toEqual(new Set(['refused']))
        return statements.length
      }
      clock.advance(5_000)
      expect([await attack(), await attack()]).toEqual([1, 0])
    } finally {
      await app.close()
    }
  })

  describe('after a change of cached facts', () => {
    const allowed = async (app: Counted, person: Person, resource: object) => {
      const { status, body } = await ask(app, person, resource)
      return status === 200 ? body.allowed : status
    }
    const make = async (app: Counted, visibility = 'public') => {
      const { body } = await app.client.post('/api/v1/projects', { name: 'Kept', visibility }, { token: owner.token })
      return { type: 'project', id: body.id as string }
    }

    test('of visibility costs one statement, sees the change, and then costs none', async () => {
      const resource = await make(home)
      expect(await allowed(home, stranger, resource)).toBe(true)
      for (const [visibility, expected] of [
        ['private', false],
        ['public', true],
        ['team-only', false],
      ] as const) {
        await home.client.patch(`/api/v1/projects/${resource.id}`, { visibility }, { token: owner.token })
        const first = await counting(home, () => allowed(home, stranger, resource))
        expect([visibility, first.result, first.statements.length]).toEqual([visibility, expected, 1])
        const second = await counting(home, () => allowed(home, stranger, resource))
        expect([second.result, second.statements.length]).toEqual([expected, 0])
      }
    })

    test('such as a deleted project denies the project at once and, except to their owner, its generations', async () => {
      const resource = await make(home)
      const { body } = await home.client.post(
        '/api/v1/generations',
        { model: 'local/procedural', prompt: 'p', project_id: resource.id },
        { token: owner.token },
      )
      const inside = { type: 'generation', id: body.id }
      expect([await allowed(home, stranger, resource), await allowed(home, stranger, inside)]).toEqual([true, true])
      await home.client.delete(`/api/v1/projects/${resource.id}`, { token: owner.token })
      expect([await allowed(home, stranger, resource), await allowed(home, stranger, inside)]).toEqual([false, false])
      expect(await allowed(home, owner, inside)).toBe(true)
      await home.client.delete(`/api/v1/generations/${inside.id}`, { token: owner.token })
      expect(await allowed(home, owner, inside)).toBe(false)
    })

    test('such as a logout or a closed account gives 401 at once', async () => {
      const resource = await make(home)
      const [leaver, closer] = [await register(home.client), await register(home.client)]
      expect([await allowed(home, leaver, resource), await allowed(home, closer, resource)]).toEqual([true, true])
      await home.client.post('/api/v1/auth/logout', undefined, { token: leaver.token })
      await home.client.delete('/api/v1/auth/me', { token: closer.token })
      expect([await allowed(home, leaver, resource), await allowed(home, closer, resource)]).toEqual([401, 401])
    })

    test('never uses the old facts under load, if it begins after the change was answered', async () => {
      const resource = await make(home)
      const path = `/api/v1/projects/${resource.id}`
      let shown = true
      let changing = false
      let going = true
      const stale: string[] = []
      let conclusive = 0
      const watch = async () => {
        while (going) {
          const [expected, quietAtStart] = [shown, !changing]
          const answer = await allowed(home, stranger, resource)
          // Conclusive only if no change overlapped the check.
          if (!quietAtStart || changing || expected !== shown) continue
          conclusive += 1
          if (answer !== expected) stale.push(`${answer} instead of ${expected}`)
        }
      }
      const watchers = Array.from({ length: 16 }, watch)
      for (let round = 0; round < 40; round += 1) {
        changing = true
        await home.client.patch(path, { visibility: shown ? 'private' : 'public' }, { token: owner.token })
        shown = !shown
        changing = false
        await home.client.get(path, { token: owner.token })
      }
      going = false
      await Promise.all(watchers)
      expect(conclusive).toBeGreaterThan(100)
      expect(stale).toEqual([])
    })
  })
})
