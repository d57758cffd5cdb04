import { beforeAll, describe, expect, test } from 'bun:test'
import { newPicture } from '../../harness/pictures.ts'
import type { Person } from '../../harness.ts'
import { type Answer, type Group, refusal } from './driver.ts'

/** An operator lowers the figures of one account, which count from the next call on. */
export const quotas: Group = (world) =>
  describe('an account whose figures an operator has lowered', () => {
    let operator: Person | undefined
    beforeAll(async () => {
      operator = await world().operator()
    })
    const limit = async ({ id }: Person, limits: Record<string, number> | null) => {
      const answer = await world().patch(`/api/v1/users/${id}`, { limits }, { token: operator?.token ?? '' })
      expect([answer.status, answer.body.limits]).toEqual([200, limits])
    }
    const limited = async (limits: Record<string, number>): Promise<Person> => {
      const person = await world().register()
      await limit(person, limits)
      return person
    }
    const post = (path: string, body: unknown, { token }: Person) => world().post(`/api/v1${path}`, body, { token })
    const createProject = (owner: Person, input: object = {}) => post('/projects', { name: 'P', ...input }, owner)
    const createTeam = (owner: Person) => post('/teams', { name: 'T' }, owner)
    const join = async (team: string, owner: Person, person: Person): Promise<Answer> => {
      const { body } = await post(`/teams/${team}/invitations`, { email: person.email, role: 'viewer' }, owner)
      return post('/teams/invitations/accept', { secret: body.secret }, person)
    }
    const order = (owner: Person, size = 64) =>
      post(
        '/generations',
        { model: 'local/procedural', prompt: 'A lion at dawn', parameters: { width: size, height: size } },
        owner,
      )
    const upload = async ({ token }: Person) =>
      world().send('POST', '/api/v1/media', {
        token,
        headers: { 'content-type': 'image/png' },
        body: new Uint8Array(await newPicture()),
      })

    test('owns no more projects and teams than they say, also by a transfer, and more once they are lifted', async () => {
      if (operator === undefined) return
      const owner = await world().register()
      const ada = await limited({ projects: 1, teams: 1 })
      const [project, team] = [await createProject(ada), await createTeam(ada)]
      expect([project.status, team.status]).toEqual([201, 201])
      const [more, another] = [await createProject(ada), await createTeam(ada)]
      expect([refusal(more), refusal(another)]).toEqual(['409 quota.projects', '409 quota.teams'])
      for (const { body } of [more, another]) expect(body).toMatchObject({ limit: 1, used: 1 })

      const shared = (await createTeam(owner)).body.id as string
      expect((await join(shared, owner, ada)).status).toBe(200)
      const given = (await createProject(owner, { visibility: 'team-only' })).body.id as string
      expect((await post(`/projects/${given}/teams`, { team_id: shared, access_level: 'read' }, owner)).status).toBe(
        201,
      )
      const transferProject = () => post(`/projects/${given}/transfer`, { owner_id: ada.id }, owner)
      const transferTeam = () => post(`/teams/${shared}/transfer`, { user_id: ada.id }, owner)
      expect([refusal(await transferProject()), refusal(await transferTeam())]).toEqual([
        '409 project.new_owner_full',
        '409 team.new_owner_full',
      ])
      await limit(ada, null)
      expect([(await transferProject()).status, (await transferTeam()).status]).toEqual([200, 200])
    })

    test('has no more members in its teams than they say', async () => {
      if (operator === undefined) return
      const owner = await limited({ team_members: 2 })
      const team = (await createTeam(owner)).body.id as string
      const [ada, bob] = [await world().register(), await world().register()]
      expect((await join(team, owner, ada)).status).toBe(200)
      const refused = await join(team, owner, bob)
      expect(refusal(refused)).toBe('409 quota.team_members')
      expect(refused.body).toMatchObject({ limit: 2, used: 2 })
    })

    test('has no more generations under way than they say, and is told when to try again', async () => {
      if (operator === undefined) return
      const ada = await limited({ jobs_under_way: 1 })
      const answers = await Promise.all(Array.from({ length: 6 }, () => order(ada, 1_024)))
      const refused = answers.filter(({ status }) => status !== 201)
      expect(refused.length).toBeGreaterThan(0)
      for (const answer of refused) {
        expect(refusal(answer)).toBe('429 quota.jobs_under_way')
        expect(answer.body).toMatchObject({ limit: 1, used: 1 })
        expect(answer.headers.get('retry-after')).toMatch(/^[1-9]\d*$/)
      }
    })

    test('stores no more bytes than they say, by uploads and by generations', async () => {
      if (operator === undefined) return
      const ada = await limited({ stored_bytes: 20 })
      const [sent, made] = [await upload(ada), await order(ada)]
      expect([refusal(sent), refusal(made)]).toEqual(['409 quota.stored_bytes', '409 quota.stored_bytes'])
      for (const { body } of [sent, made])
        expect(body).toMatchObject({ limit: 20, used: 0, needed: expect.any(Number) })
      const { body } = await world().get('/api/v1/auth/me/quotas', { token: ada.token })
      expect(body.stored_bytes).toEqual({ limit: 20, used: 0 })
      await limit(ada, null)
      expect((await upload(ada)).status).toBe(201)
    })

    test('has no more sessions than they say: another sign-in ends the one that was seen least recently', async () => {
      if (operator === undefined) return
      const ada = await limited({ sessions: 1 })
      const newest = await world().login(ada)
      const me = async ({ token }: Person) => (await world().get('/api/v1/auth/me', { token })).status
      expect([await me(ada), await me(newest)]).toEqual([401, 200])
    })

    test('sends no more requests a minute than they say, and the refusal names the budget', async () => {
      if (operator === undefined) return
      const ada = await limited({ api: 3 })
      const answers: Answer[] = []
      for (let count = 0; count < 4; count += 1)
        answers.push(await world().get('/api/v1/projects', { token: ada.token }))
      expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 429])
      const refused = answers[3] as Answer
      expect(refusal(refused)).toBe('429 limit.exceeded')
      expect(refused.body).toMatchObject({ budget: 'api', limit: 3, window_seconds: 60 })
      expect(refused.headers.get('retry-after')).toBe(String(refused.body.retry_after_seconds))
      expect(refused.headers.get('ratelimit-policy')).toBe('"api";q=3;w=60')
    })
  })
