import { afterAll, beforeAll, expect, test } from 'bun:test'
import { type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const perMinute = 30

let app: TestApp
let client: Api
beforeAll(async () => {
  app = await startApp({ config: { limits: 'on' } })
  client = api(app.baseUrl)
})
afterAll(() => app.close())

const createTeam = async (owner: Person): Promise<string> =>
  (await client.post('/api/v1/teams', { name: 'T' }, { token: owner.token })).body.id
const invite = async (owner: Person, team: string, email: string) => {
  const sending = { token: owner.token }
  const { status, headers, body } = await client.post(
    `/api/v1/teams/${team}/invitations`,
    { email, role: 'viewer' },
    sending,
  )
  return {
    status,
    budget: body.budget,
    policy: headers.get('ratelimit-policy'),
    retryAfter: headers.get('retry-after'),
  }
}
const refused = { status: 429, budget: 'auth_account', retryAfter: expect.stringMatching(/^[1-9]\d?$/) }

test('a person sends 30 invitations a minute, and each counts on the api budget as any request', async () => {
  const owner = await register(client)
  const team = await createTeam(owner)
  for (let index = 0; index < perMinute; index += 1)
    expect(await invite(owner, team, `guest-${index}-${owner.email}`)).toMatchObject({
      status: 201,
      policy: expect.stringContaining('"api"'),
    })
  expect(await invite(owner, team, `last-${owner.email}`)).toMatchObject({
    ...refused,
    policy: expect.stringContaining('"auth_account"'),
  })
  const other = await register(client)
  expect((await invite(other, await createTeam(other), `last-${owner.email}`)).status).toBe(201)
})

test('an address gets 30 invitations a minute, from all people together and in any spelling', async () => {
  const owners = await Promise.all([register(client), register(client)])
  const teams = await Promise.all(owners.map(createTeam))
  const guest = `guest-${owners[0]?.email}`
  for (let index = 0; index < perMinute; index += 1) {
    const by = index % 2
    const { status } = await invite(owners[by] as Person, teams[by] as string, index % 3 ? guest : guest.toUpperCase())
    expect(status).toBe(201)
  }
  for (const by of [0, 1]) expect(await invite(owners[by] as Person, teams[by] as string, guest)).toMatchObject(refused)
  expect((await invite(owners[0] as Person, teams[0] as string, `another-${guest}`)).status).toBe(201)
})
