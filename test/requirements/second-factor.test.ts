import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createHash } from 'node:crypto'
import { Secret, TOTP } from 'otpauth'
import { hashRecoveryCode, newRecoveryCodes } from '../../src/identity/factors/recovery-codes.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { newTotpSecret } from '../../src/platform/totp.ts'
import { createAuthenticator } from '../harness/authenticator.ts'
import { createMailbox } from '../harness/mailbox.ts'
import { type Answer, type Person, register } from '../harness.ts'
import { newEmail, startWorld, tokenOf, type World } from '../http/identity-providers-world.ts'

const mailbox = createMailbox()
let world: World
let sql: Sql

beforeAll(async () => {
  const passkeys = { id: 'velro.test', origins: ['https://app.velro.test'] }
  world = await startWorld({ ...mailbox.options, config: { ...mailbox.options.config, passkeys } })
  sql = connectOnce(world.app.connection)
})
afterAll(async () => {
  await sql.end()
  await world.close()
})

const auth = (path: string, body?: object, token?: string): Promise<Answer> =>
  world.client.post(`/api/v1/auth${path}`, body, token === undefined ? {} : { token })

/** A new account whose owner has opened the link in the first mail. */
const registerVerified = async (): Promise<Person> => {
  const person = await register(world.client)
  const token = await mailbox.tokenTo(world.app, person.email, 'verify-email')
  expect((await auth('/verify-email/confirm', { token })).status).toBe(204)
  return person
}

/** Turns an authenticator app on. Returns the code of a moment, each of which is accepted once. */
const enrol = async (token: string) => {
  const { body } = await auth('/totp', undefined, token)
  const nextCode = () => {
    world.clock.advance(30_000)
    return TOTP.generate({ secret: Secret.fromBase32(body.secret), timestamp: world.clock.now() })
  }
  const confirmed = await auth('/totp/confirm', { code: nextCode() }, token)
  expect(confirmed.status).toBe(200)
  return { nextCode, recoveryCodes: confirmed.body.recovery_codes as string[] }
}

/** The sign-in has opened no session yet, and opens one with a code of the app. */
const expectSecondStep = async (answer: Answer, code: string) => {
  expect([answer.status, answer.body.access_token]).toEqual([202, undefined])
  const { sign_in_token } = answer.body
  expect((await auth('/login/second-factor', { sign_in_token, code })).status).toBe(200)
}

test('a new password from a mail does not skip the second factor', async () => {
  const person = await registerVerified()
  const { nextCode } = await enrol(person.token)
  expect((await auth('/password-reset', { email: person.email })).status).toBe(202)
  const token = await mailbox.tokenTo(world.app, person.email, 'reset-password')
  const reset = await auth('/password-reset/confirm', { token, new_password: 'another eight green bottles' })
  expect([reset.status, reset.body, reset.headers.getSetCookie()]).toEqual([204, undefined, []])
  expect((await world.client.get('/api/v1/auth/me', { token: person.token })).status).toBe(401)
  const { email } = person
  await expectSecondStep(await auth('/login', { email, password: 'another eight green bottles' }), nextCode())
})

test('an account without a verified address gets no factor, so a person who registered it under the address of another one keeps no way in', async () => {
  const squatter = await register(world.client)
  const as = { token: squatter.token }
  const outcomeOf = ({ status, body }: Answer) => (body?.code === undefined ? status : `${status} ${body.code}`)
  const unverified = '403 identity.email_not_verified'
  expect(outcomeOf(await auth('/totp', undefined, squatter.token))).toBe(unverified)
  expect(outcomeOf(await auth('/passkeys/options', undefined, squatter.token))).toBe(unverified)
  // A set-up that began before, such as in a deployment that sent no mails then.
  await auth('/verify-email/confirm', { token: await mailbox.tokenTo(world.app, squatter.email, 'verify-email') })
  const { body } = await auth('/totp', undefined, squatter.token)
  const { options } = (await auth('/passkeys/options', undefined, squatter.token)).body
  await sql`update users set email_verified_at = null where id = ${squatter.id}`
  const code = TOTP.generate({ secret: Secret.fromBase32(body.secret), timestamp: world.clock.now() })
  expect(outcomeOf(await auth('/totp/confirm', { code }, squatter.token))).toBe(unverified)
  const passkey = createAuthenticator({ origin: 'https://app.velro.test', domain: 'velro.test' }).create(options)
  expect(outcomeOf(await auth('/passkeys', { name: 'Key', passkey }, squatter.token))).toBe(unverified)
  expect((await world.client.get('/api/v1/auth/second-factors', as)).body).toMatchObject({ totp: null, passkeys: [] })

  const { email } = squatter
  await auth('/password-reset', { email })
  const token = await mailbox.tokenTo(world.app, email, 'reset-password')
  await auth('/password-reset/confirm', { token, new_password: 'another eight green bottles' })
  expect((await auth('/login', { email, password: squatter.password })).status).toBe(401)
  const owner = await auth('/login', { email, password: 'another eight green bottles' })
  expect([owner.status, owner.body.user.email_verified]).toEqual([200, true])
})

test('the owner gets a mail of an identity that was linked, and of one that was unlinked', async () => {
  const person = await registerVerified()
  world.at({ email: newEmail(), email_verified: true })
  const linked = await world.link(person, await world.goFor(person, 'link'))
  expect(linked.status).toBe(201)
  const { status } = await world.client.delete(`/api/v1/auth/linked-identities/${linked.body.id}`, {
    token: person.token,
  })
  expect(status).toBe(204)
  const told = (await mailbox.to(world.app, person.email)).map(({ text }) => / were changed: (.+)\./.exec(text)?.[1])
  expect(told.filter((change) => change !== undefined)).toEqual([
    'sign-in with acme was added',
    'sign-in with acme was removed',
  ])
})

test('a sign-in with a provider does not skip the second factor', async () => {
  world.at({ email: newEmail(), email_verified: true, name: 'Ada' })
  const first = await world.signIn(await world.go())
  const { nextCode } = await enrol(tokenOf(first).token)
  await expectSecondStep(await world.signIn(await world.go()), nextCode())
})

test('a team may require a second factor: who has none has no access through it, at once, until one is set up', async () => {
  const [owner, member] = [await registerVerified(), await registerVerified()]
  const as = (person: Person) => ({ token: person.token })
  await enrol(owner.token)
  const { body: team } = await world.client.post('/api/v1/teams', { name: 'Lighthouses' }, as(owner))
  const invitation = { email: member.email, role: 'viewer' }
  const invited = await world.client.post(`/api/v1/teams/${team.id}/invitations`, invitation, as(owner))
  await world.client.post('/api/v1/teams/invitations/accept', { secret: invited.body.secret }, as(member))
  const { body: project } = await world.client.post(
    '/api/v1/projects',
    { name: 'p', visibility: 'team-only' },
    as(owner),
  )
  await world.client.post(`/api/v1/projects/${project.id}/teams`, { team_id: team.id, access_level: 'read' }, as(owner))
  const mayRead = async () => (await world.client.get(`/api/v1/projects/${project.id}`, as(member))).status
  expect(await mayRead()).toBe(200)
  const demand = { requires_second_factor: true }
  expect((await world.client.patch(`/api/v1/teams/${team.id}`, demand, as(owner))).status).toBe(200)
  expect(await mayRead()).toBe(404)
  await enrol(member.token)
  expect(await mayRead()).toBe(200)
})

describe('secrets of second factors', () => {
  test('recovery codes have 120 random bits, and are stored as hashes', async () => {
    const codes = Array.from({ length: 400 }, newRecoveryCodes).flat()
    expect(new Set(codes).size).toBe(codes.length)
    const characters = codes.join('').replaceAll('-', '')
    expect([codes.length, characters.length / codes.length]).toEqual([4_000, 24])
    const counts = new Map<string, number>()
    for (const character of characters) counts.set(character, (counts.get(character) ?? 0) + 1)
    // 32 characters are 5 bits each. Each is expected 3,000 times, with a standard deviation of 54.
    expect(counts.size).toBe(32)
    for (const count of counts.values()) expect(Math.abs(count - 3_000)).toBeLessThan(400)
    const person = await registerVerified()
    const { recoveryCodes } = await enrol(person.token)
    const rows = await sql<
      { code_hash: Uint8Array }[]
    >`select code_hash from recovery_codes where user_id = ${person.id}`
    const stored = rows.map(({ code_hash }) => Buffer.from(code_hash).toString('hex')).toSorted()
    const hashes = recoveryCodes
      .map((code) => Buffer.from(hashRecoveryCode(person.id, code)).toString('hex'))
      .toSorted()
    expect(stored).toEqual(hashes)
  })

  test('secrets of authenticator apps have 160 random bits', () => {
    const secrets = Array.from({ length: 1_000 }, newTotpSecret)
    expect(new Set(secrets.map((secret) => Buffer.from(secret).toString('hex'))).size).toBe(1_000)
    for (const secret of secrets) expect(secret).toHaveLength(20)
    const ones = secrets
      .flatMap((secret) => [...secret])
      .reduce((sum, byte) => sum + byte.toString(2).replaceAll('0', '').length, 0)
    // Of 160,000 bits half are expected to be ones, with a standard deviation of 200.
    expect(Math.abs(ones - 80_000)).toBeLessThan(1_600)
  })

  test('challenges for passkeys are random, and no two are the same', async () => {
    const answers = await Promise.all(Array.from({ length: 50 }, () => auth('/login/passkey/options')))
    const challenges = answers.map(({ body }) => Buffer.from(body.options.challenge, 'base64url'))
    expect(new Set(challenges.map((bytes) => createHash('sha256').update(bytes).digest('hex'))).size).toBe(50)
    for (const bytes of challenges) expect(bytes.length).toBeGreaterThanOrEqual(16)
  })
})
