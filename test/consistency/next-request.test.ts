import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { Redis as Client } from 'ioredis'
import { createDatabase, startRedis, type TestDatabase } from '../harness.ts'
import { type Credential, type Fixture, pick, type Question } from './fixture.ts'
import { type Instance, startInstance } from './instances.ts'
import { observe, send } from './observation.ts'
import { openPopulation, type Population } from './population.ts'

const times = 200

/** Every key of a Redis server and everything under it, as one text. */
const dumpOf = async (url: string): Promise<string> => {
  const client = new Client(url)
  const readers: Readonly<Record<string, (key: string) => Promise<unknown>>> = {
    string: (key) => client.get(key),
    hash: (key) => client.hgetall(key),
    list: (key) => client.lrange(key, 0, -1),
    set: (key) => client.smembers(key),
    zset: (key) => client.zrange(key, 0, '-1'),
    stream: (key) => client.xrange(key, '-', '+'),
  }
  const all = []
  for (const key of await client.keys('*')) {
    const read = readers[await client.type(key)]
    if (read === undefined) throw new Error(`${key} has a type that is not read here`)
    all.push([key, await read(key)])
  }
  client.disconnect()
  return JSON.stringify(all)
}

describe('the next request, on every instance', () => {
  let database: TestDatabase
  let redis: Awaited<ReturnType<typeof startRedis>>
  const instances: Instance[] = []
  let population: Population
  let fixture: Fixture
  beforeAll(async () => {
    database = await createDatabase()
    redis = await startRedis()
    for (const name of ['A', 'B', 'C']) {
      instances.push(await startInstance(name, database.connection, { REDIS_URL: redis.url }))
    }
    population = await openPopulation(database.connection)
    fixture = await population.insertFixture(0)
  })
  afterAll(async () => {
    await population.close()
    await Promise.all(instances.map(({ server }) => server.kill('SIGKILL')))
    await redis.stop()
    await database.drop()
  })

  const questionBy = (credential: Credential): Question => {
    const { member, generationId } = fixture.history.state
    const resource = { type: 'generation', id: generationId } as const
    return {
      credentialFixture: fixture,
      credential,
      resourceFixture: fixture,
      userId: member.id,
      action: 'read',
      resource,
    }
  }
  const everywhere = (credential: Credential) =>
    Promise.all(
      instances.flatMap((instance) =>
        (['check', 'explain'] as const).map(async (endpoint) => {
          const { answers, status } = await observe(instance, endpoint, [questionBy(credential)])
          return `${status} ${answers[0]}`
        }),
      ),
    )
  const yes = Array.from({ length: 6 }, () => '200 true')
  const no = Array.from({ length: 6 }, () => '401 false')

  test(`is refused after its session was ended, ${times} times`, async () => {
    const { member } = fixture.history.state
    const otherSession = await population.createSession(member)
    for (let time = 0; time < times; time += 1) {
      const session = await population.createSession(member)
      expect(await everywhere(session)).toEqual(yes)
      const ended = await send(pick(instances), otherSession, 'DELETE', `/api/v1/auth/sessions/${session.id}`)
      const answers = await everywhere(session)
      expect([ended?.status, time, ...answers]).toEqual([204, time, ...no])
    }
  })

  test(`is refused after its service key was revoked, ${times} times`, async () => {
    const { operator } = population
    for (let time = 0; time < times; time += 1) {
      const body = { name: 'k', scopes: ['authorization:check'] }
      const made = await send(pick(instances), operator, 'POST', '/api/v1/service-keys', body)
      const key: Credential = { kind: 'key', id: made?.body.id, token: made?.body.key }
      expect(await everywhere(key)).toEqual(yes)
      const revoked = await send(pick(instances), operator, 'DELETE', `/api/v1/service-keys/${key.id}`)
      const answers = await everywhere(key)
      expect([revoked?.status, time, ...answers]).toEqual([204, time, ...no])
    }
  })

  test(`shows the new name of an account, ${times} times, and Redis holds neither names nor addresses`, async () => {
    const { member } = fixture.history.state
    const session = await population.createSession(member)
    const namesShown = () =>
      Promise.all(instances.map(async (instance) => (await send(instance, session, 'GET', '/api/v1/auth/me'))?.body))
    for (let time = 0; time < times; time += 1) {
      const display_name = `Secretname ${time}`
      const changed = await send(pick(instances), session, 'PATCH', '/api/v1/auth/me', { display_name })
      const shown = await namesShown()
      expect([changed?.status, ...shown.map((me) => me.display_name)]).toEqual([200, ...Array(3).fill(display_name)])
      expect(shown.map((me) => me.email)).toEqual(Array(3).fill(member.email))
      expect(shown.map((me) => me.updated_at)).toEqual(Array(3).fill(changed?.body.updated_at))
    }
    const stored = await dumpOf(redis.url)
    // Facts are there, so their absence says something.
    expect(stored).toContain(`account:${member.id}`)
    expect(stored).not.toContain('Secretname')
    expect(stored).not.toContain(member.email)
  })

  test(`is refused and shown nothing after the account was suspended by an operator`, async () => {
    const { operator } = population
    const person = await population.createHuman()
    const session = await population.createSession(person)
    const me = () =>
      Promise.all(instances.map(async (instance) => (await send(instance, session, 'GET', '/api/v1/auth/me'))?.status))
    expect(await me()).toEqual([200, 200, 200])
    const path = `/api/v1/users/${person.id}`
    const plan = await send(pick(instances), operator, 'PATCH', path, { plan: 'pro' })
    const shown = await Promise.all(
      instances.map(async (instance) => (await send(instance, session, 'GET', '/api/v1/auth/me'))?.body.plan),
    )
    expect([plan?.status, ...shown]).toEqual([200, 'pro', 'pro', 'pro'])
    const suspended = await send(pick(instances), operator, 'PATCH', path, { status: 'suspended' })
    expect([suspended?.status, ...(await me())]).toEqual([200, 401, 401, 401])
  })

  test('is denied after a grant was withdrawn from a team whose members do not fit into one notification', async () => {
    const { ownerSession, history } = fixture
    const { teamId, projectId, credentials } = history.state
    const key = credentials.find(({ kind }) => kind === 'key') as Credential
    const viewers = await population.addViewers(teamId, 150)
    const grants = `/api/v1/projects/${projectId}/teams`
    const askAbout = (userIds: readonly string[]) =>
      Promise.all(
        instances.map(async (instance) => {
          const questions = userIds.map((userId) => ({ ...questionBy(key), userId }))
          const { answers } = await observe(instance, 'batch', questions as [Question, ...Question[]])
          return answers.filter((answer) => answer === true).length
        }),
      )
    for (let time = 0; time < 10; time += 1) {
      expect(await askAbout(viewers)).toEqual([viewers.length, viewers.length, viewers.length])
      const withdrawn = await send(pick(instances), ownerSession, 'DELETE', `${grants}/${teamId}`)
      expect([withdrawn?.status, await askAbout(viewers)]).toEqual([204, [0, 0, 0]])
      const given = await send(pick(instances), ownerSession, 'POST', grants, {
        team_id: teamId,
        access_level: 'write',
      })
      expect(given?.status).toBe(201)
    }
  })
})
