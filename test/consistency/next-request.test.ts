import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createDatabase, startRedis, type TestDatabase } from '../harness.ts'
import { type Credential, type Fixture, pick, type Question } from './fixture.ts'
import { type Instance, startInstance } from './instances.ts'
import { observe, send } from './observation.ts'
import { openPopulation, type Population } from './population.ts'

const times = 200

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
