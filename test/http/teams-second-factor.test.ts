import { afterAll, beforeAll, expect, test } from 'bun:test'
import { Secret, TOTP } from 'otpauth'
import { type Answer, type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const outcome = ({ status, body }: Answer) => (status < 400 ? status : `${status} ${body?.code}`)
const required = '403 team.second_factor_required'

let apps: TestApp[]
let client: Api
let other: Api
beforeAll(async () => {
  const first = await startApp()
  apps = [first, await startApp({ connection: first.connection })]
  const [one, two] = apps.map(({ baseUrl }) => api(baseUrl)) as [Api, Api]
  client = one
  other = two
})
afterAll(async () => {
  for (const app of apps?.toReversed() ?? []) await app.close()
})

const enrol = async ({ token }: Person) => {
  const { body } = await client.post('/api/v1/auth/totp', undefined, { token })
  const code = TOTP.generate({ secret: Secret.fromBase32(body.secret) })
  expect(outcome(await client.post('/api/v1/auth/totp/confirm', { code }, { token }))).toBe(200)
}

test('a team that requires a second factor gives its members access with one and none without, at once on every instance', async () => {
  const [owner, member] = [await register(client), await register(client)]
  const as = ({ token }: Person) => ({ token })
  const team = (await client.post('/api/v1/teams', { name: 'Keepers' }, as(owner))).body
  const invitation = { email: member.email, role: 'admin' }
  const { secret } = (await client.post(`/api/v1/teams/${team.id}/invitations`, invitation, as(owner))).body
  expect(outcome(await client.post('/api/v1/teams/invitations/accept', { secret }, as(member)))).toBe(200)
  const project = (await client.post('/api/v1/projects', { name: 'P', visibility: 'team-only' }, as(owner))).body
  const grant = { team_id: team.id, access_level: 'write' }
  expect(outcome(await client.post(`/api/v1/projects/${project.id}/teams`, grant, as(owner)))).toBe(201)

  /** What the member may do, as each instance and each list says it. */
  const access = async () => {
    const question = { action: 'write', resource: { type: 'project', id: project.id } }
    const seen = await Promise.all(
      [client, other].map(async (at) => {
        const checked = await at.post('/api/v1/authorization/check', question, as(member))
        const list = await at.get('/api/v1/authorization/accessible?type=project&action=write', as(member))
        const who = await at.get(`/api/v1/authorization/who?type=project&id=${project.id}&action=write`, as(owner))
        return [
          checked.body.allowed,
          list.body.items.length === 1,
          who.body.items.some(({ user_id }: { user_id: string }) => user_id === member.id),
        ]
      }),
    )
    return new Set(seen.flat())
  }
  const requirement = (who: Person, requires_second_factor: boolean, at = client) =>
    at.patch(`/api/v1/teams/${team.id}`, { requires_second_factor }, as(who))
  const members = () => client.get(`/api/v1/teams/${team.id}/members`, as(member))

  expect(await access()).toEqual(new Set([true]))
  // Only the owner may demand it, and only with a factor.
  expect(outcome(await requirement(member, true))).toBe('403 team.role_too_low')
  expect(outcome(await requirement(owner, true))).toBe(required)
  await enrol(owner)
  const demanded = await requirement(owner, true)
  expect([demanded.status, demanded.body.requires_second_factor]).toEqual([200, true])
  expect(await access()).toEqual(new Set([false]))
  expect(outcome(await client.get(`/api/v1/projects/${project.id}`, as(member)))).toBe('404 project.not_found')

  // A member without a factor may see the team and leave it, and nothing else.
  const shown = await client.get(`/api/v1/teams/${team.id}`, as(member))
  expect([shown.status, shown.body.requires_second_factor]).toEqual([200, true])
  const refused = [
    await members(),
    await client.get(`/api/v1/teams/${team.id}/statistics`, as(member)),
    await client.get(`/api/v1/teams/${team.id}/invitations`, as(member)),
    await client.post(`/api/v1/teams/${team.id}/invitations`, { email: 'x@example.com', role: 'viewer' }, as(member)),
    await client.patch(`/api/v1/teams/${team.id}`, { name: 'Taken' }, as(member)),
    await requirement(member, false),
  ]
  expect(refused.map(outcome)).toEqual(Array(refused.length).fill(required))

  await enrol(member)
  expect(await access()).toEqual(new Set([true]))
  expect(outcome(await members())).toBe(200)
  expect((await client.delete('/api/v1/auth/totp', as(member))).status).toBe(204)
  expect(await access()).toEqual(new Set([false]))
  expect(outcome(await requirement(owner, false, other))).toBe(200)
  expect(await access()).toEqual(new Set([true]))
}, 30_000)
