import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createDatabase, startRedis, type TestDatabase } from '../harness.ts'
import { ask, send } from './asking.ts'
import { type Credential, pick, type Question, type Scene } from './fixture.ts'
import { type Instance, startInstance } from './instances.ts'
import { openPopulation, type Population } from './population.ts'

const times = 200

describe('the next request, wherever it goes', () => {
  let database: TestDatabase
  let redis: Awaited<ReturnType<typeof startRedis>>
  const instances: Instance[] = []
  let population: Population
  let scene: Scene
  beforeAll(async () => {
    database = await createDatabase()
    redis = await startRedis()
    for (const name of ['A', 'B', 'C']) {
      instances.push(await startInstance(name, database.connection, { REDIS_URL: redis.url }))
    }
    population = await openPopulation(database.connection)
    scene = await population.scene(0)
  })
  afterAll(async () => {
    await population.close()
    await Promise.all(instances.map(({ server }) => server.kill('SIGKILL')))
    await redis.stop()
    await database.drop()
  })

  const questionBy = (credential: Credential): Question => {
    const { member, generationId } = scene.history.state
    const thing = { type: 'generation', id: generationId } as const
    return { asker: scene, credential, about: scene, userId: member.id, action: 'read', thing }
  }
  const everywhere = (credential: Credential) =>
    Promise.all(
      instances.flatMap((instance) =>
        (['check', 'explain'] as const).map(async (way) => {
          const { answers, status } = await ask(instance, way, [questionBy(credential)])
          return `${status} ${answers[0]}`
        }),
      ),
    )
  const yes = Array.from({ length: 6 }, () => '200 true')
  const no = Array.from({ length: 6 }, () => '401 false')

  test(`is refused after a session was ended, ${times} times`, async () => {
    const { member } = scene.history.state
    const mediaStorage = await population.session(member)
    for (let time = 0; time < times; time += 1) {
      const session = await population.session(member)
      expect(await everywhere(session)).toEqual(yes)
      const ended = await send(pick(instances), mediaStorage, 'DELETE', `/api/v1/auth/sessions/${session.id}`)
      const answers = await everywhere(session)
      expect([ended?.status, time, ...answers]).toEqual([204, time, ...no])
    }
  })

  test(`is refused after a service key was revoked, ${times} times`, async () => {
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

  test('is refused after a grant was withdrawn from a team too large for one notification', async () => {
    const { ownerSession, history } = scene
    const { teamId, projectId, credentials } = history.state
    const key = credentials.find(({ kind }) => kind === 'key') as Credential
    const crowd = await population.crowd(teamId, 150)
    const grants = `/api/v1/projects/${projectId}/teams`
    const askAbout = (userIds: readonly string[]) =>
      Promise.all(
        instances.map(async (instance) => {
          const questions = userIds.map((userId) => ({ ...questionBy(key), userId }))
          const { answers } = await ask(instance, 'batch', questions as [Question, ...Question[]])
          return answers.filter((answer) => answer === true).length
        }),
      )
    for (let time = 0; time < 10; time += 1) {
      expect(await askAbout(crowd)).toEqual([crowd.length, crowd.length, crowd.length])
      const withdrawn = await send(pick(instances), ownerSession, 'DELETE', `${grants}/${teamId}`)
      expect([withdrawn?.status, await askAbout(crowd)]).toEqual([204, [0, 0, 0]])
      const given = await send(pick(instances), ownerSession, 'POST', grants, {
        team_id: teamId,
        access_level: 'write',
      })
      expect(given?.status).toBe(201)
    }
  })
})
