import { afterAll, afterEach, beforeAll, describe, expect, test } from 'bun:test'
import { randomBytes } from 'node:crypto'
import { manualClock } from '../../src/kit/clock.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import {
  type Answer,
  type Api,
  api,
  createMailbox,
  type Person,
  register,
  startApp,
  type TestApp,
  tokenIn,
} from '../harness.ts'

const auth = '/api/v1/auth'
const gone = '410 one_time_token.gone'
const notFound = '404 one_time_token.not_found'
const hourMs = 3_600_000
const newPassword = 'eight blue bottles standing'
const outcomeOf = ({ status, body }: Answer) => (body?.code === undefined ? String(status) : `${status} ${body.code}`)
const newAddress = () => `person-${randomBytes(6).toString('hex')}@example.com`

const clock = manualClock(Date.now())
const mailbox = createMailbox()
let app: TestApp
let client: Api
let sql: Sql
beforeAll(async () => {
  app = await startApp({
    ...mailbox.options,
    config: { ...mailbox.options.config, trustedProxies: ['127.0.0.1'] },
    clock,
  })
  client = api(app.baseUrl)
  sql = connectOnce(app.connection)
})
afterEach(() => {
  mailbox.mails.length = 0
})
afterAll(async () => {
  await sql.end()
  await app.close()
})

const post = (path: string, body: unknown, token?: string) => client.post(auth + path, body, token ? { token } : {})
const mailsTo = (email: string) => mailbox.to(app, email)
const tokenTo = (email: string, page: string) => mailbox.tokenTo(app, email, page)
const logIn = (email: string, password: string) => post('/login', { email, password })
/** From a network in which the account has no session. */
const logInElsewhere = (email: string, password: string) =>
  client.post(`${auth}/login`, { email, password }, { headers: { 'x-forwarded-for': '198.51.100.7' } })
const me = async ({ email, password }: Person) => (await logIn(email, password)).body
const subjects = async (email: string) => (await mailsTo(email)).map(({ subject }) => subject)
const askReset = async (email: string) => {
  expect(outcomeOf(await post('/password-reset', { email }))).toBe('202')
  return tokenTo(email, 'reset-password')
}
const resetWith = async (token: string, new_password = newPassword) =>
  outcomeOf(await post('/password-reset/confirm', { token, new_password }))
const confirm = async (path: string, token: string) => outcomeOf(await post(path, { token }))

/** Asks for a new address, and returns the token of the mail to it. */
const askChange = async (person: Person, email: string) => {
  const { access_token } = await me(person)
  expect(outcomeOf(await post('/email', { email }, access_token))).toBe('202')
  return tokenTo(email, 'confirm-email')
}

/** What an operator does to an account. */
const operate = async (method: 'delete' | 'patch' | 'post', path: string, body?: object) => {
  const operator = await register(client)
  await sql`update users set role = 'admin' where id = ${operator.id}`
  await app.caughtUp()
  const target = `/api/v1/users${path}`
  const as = { token: operator.token }
  const answer = method === 'delete' ? await client.delete(target, as) : await client[method](target, body, as)
  expect(answer.status).toBeLessThan(300)
}

/** A token of each flow, and what its confirmation answers. */
const flows = {
  'verify-email': async () => {
    const person = await register(client)
    const token = await tokenTo(person.email, 'verify-email')
    return { token, use: (given = token) => confirm('/verify-email/confirm', given), lifeMs: 24 * hourMs }
  },
  'password-reset': async () => {
    const person = await register(client)
    const token = await askReset(person.email)
    return { token, use: (given = token) => resetWith(given), lifeMs: hourMs / 4 }
  },
  'email-change': async () => {
    const token = await askChange(await register(client), newAddress())
    return { token, use: (given = token) => confirm('/email/confirm', given), lifeMs: 24 * hourMs }
  },
  'email-undo': async () => {
    const person = await register(client)
    await confirm('/email/confirm', await askChange(person, newAddress()))
    const token = await tokenTo(person.email, 'restore-email')
    return { token, use: (given = token) => confirm('/email/undo', given), lifeMs: 72 * hourMs }
  },
  'account-invitation': async () => {
    const operator = await register(client)
    await sql`update users set role = 'admin' where id = ${operator.id}`
    await app.caughtUp()
    const email = newAddress()
    expect(outcomeOf(await client.post('/api/v1/users', { email }, { token: operator.token }))).toBe('201')
    const token = await tokenTo(email, 'choose-password')
    const use = async (given = token) =>
      outcomeOf(await post('/account-invitation/confirm', { token: given, new_password: newPassword }))
    return { token, use, lifeMs: 168 * hourMs }
  },
}
const flowNames = Object.keys(flows) as (keyof typeof flows)[]

describe.each(flowNames)('the token of %s', (name) => {
  test('works once, and is gone after that', async () => {
    const { use } = await flows[name]()
    expect([await use(), await use()]).toEqual(['204', gone])
  })

  test('works until the end of its life, and is gone from then on', async () => {
    const [early, late] = [await flows[name](), await flows[name]()]
    clock.advance(early.lifeMs - 1_000)
    expect(await early.use()).toBe('204')
    clock.advance(1_000)
    expect(await late.use()).toBe(gone)
  })

  test('means nothing with one bit changed, or to the routes of other flows', async () => {
    const { token, use } = await flows[name]()
    const flipped = `${token.slice(0, -2)}${token.at(-2) === 'A' ? 'B' : 'A'}${token.at(-1)}`
    expect(await use(flipped)).toBe(notFound)
    const others = flowNames.filter((each) => each !== name)
    for (const each of others) expect(await (await flows[each]()).use(token)).toBe(notFound)
    expect(await use()).toBe('204')
  })

  test('works for one of 100 requests at once', async () => {
    const { use } = await flows[name]()
    const answers = await Promise.all(Array.from({ length: 100 }, () => use()))
    expect(answers.filter((answer) => answer === '204')).toHaveLength(1)
    expect(new Set(answers)).toEqual(new Set(['204', gone]))
  })

  test('is not used by any GET', async () => {
    const { token, use } = await flows[name]()
    for (const { text } of mailbox.mails)
      for (const [link] of text.matchAll(/https:\/\/\S+/g)) {
        const url = new URL(link)
        const { status, body } = await client.get(`${url.pathname}?token=${token}`)
        expect([status, typeof body]).toEqual([200, 'string'])
        expect(body).not.toContain(token)
      }
    expect(await use()).toBe('204')
  })
})

describe('an address', () => {
  test('is verified by the mail that registering sends, and gets no further mail then', async () => {
    const person = await register(client)
    expect(person.user.email_verified).toBe(false)
    expect(await subjects(person.email)).toEqual(['Verify your e-mail address'])
    expect(await confirm('/verify-email/confirm', await tokenTo(person.email, 'verify-email'))).toBe('204')
    expect((await client.get(`${auth}/me`, { token: (await me(person)).access_token })).body.email_verified).toBe(true)
    expect(outcomeOf(await post('/verify-email', { email: person.email }))).toBe('202')
    expect(await subjects(person.email)).toHaveLength(1)
  })

  test('without an account is answered like one with an account, and gets no mail', async () => {
    const person = await register(client)
    const unknown = newAddress()
    for (const path of ['/password-reset', '/verify-email']) {
      const [known, none] = [await post(path, { email: person.email }), await post(path, { email: unknown })]
      expect([none.status, none.body]).toEqual([known.status, known.body])
      const names = ({ headers }: Answer) =>
        [...headers.keys()].filter((header) => header !== 'x-request-id' && header !== 'date')
      expect(names(none)).toEqual(names(known))
    }
    expect(await mailsTo(unknown)).toEqual([])
  })

  test('gets at most 5 mails of a kind in an hour', async () => {
    const { email } = await register(client)
    for (let n = 0; n < 7; n += 1) {
      await post('/password-reset', { email })
      await app.services.outbound.drain()
    }
    const resets = async () => (await subjects(email)).filter((subject) => subject === 'Choose a new password')
    expect(await resets()).toHaveLength(5)
    clock.advance(hourMs)
    await post('/password-reset', { email })
    expect(await resets()).toHaveLength(6)
  })
})

describe('a password reset', () => {
  test('sets the password, ends every session, opens none, ends pauses, verifies the address, and the owner gets a mail', async () => {
    const person = await register(client)
    for (let n = 0; n < 10; n += 1) await logInElsewhere(person.email, 'wrong password')
    expect(outcomeOf(await logInElsewhere(person.email, person.password))).toBe('429 identity.sign_in_paused')
    const answer = await post('/password-reset/confirm', {
      token: await askReset(person.email),
      new_password: newPassword,
    })
    expect([answer.status, answer.body]).toEqual([204, undefined])
    expect(outcomeOf(await client.get(`${auth}/me`, { token: person.token }))).toBe('401 identity.not_signed_in')
    expect(outcomeOf(await post('/refresh', { refresh_token: person.refreshToken }))).toBe(
      '401 identity.refresh_token_invalid',
    )
    clock.advance(1_001)
    expect(outcomeOf(await logIn(person.email, person.password))).toBe('401 identity.credentials_wrong')
    const signedIn = await logInElsewhere(person.email, newPassword)
    expect(signedIn.body.user.email_verified).toBe(true)
    expect(await subjects(person.email)).toContain('Your password was changed')
  })

  test('revokes the other reset tokens of the account', async () => {
    const { email } = await register(client)
    const [first, second] = [await askReset(email), await askReset(email)]
    expect([await resetWith(second), await resetWith(first)]).toEqual(['204', gone])
  })

  test('refuses a common password and leaves the token unused', async () => {
    const { email } = await register(client)
    const token = await askReset(email)
    expect(await resetWith(token, 'password123')).toBe('422 identity.password_common')
    expect(await resetWith(token)).toBe('204')
  })

  test('works for no account that is suspended or closed', async () => {
    const [suspended, closed] = [await register(client), await register(client)]
    const tokens = [await askReset(suspended.email), await askReset(closed.email)]
    await sql`update users set status = 'suspended' where id = ${suspended.id}`
    expect((await client.delete(`${auth}/me`, { token: (await me(closed)).access_token })).status).toBe(204)
    expect([await resetWith(tokens[0] ?? ''), await resetWith(tokens[1] ?? '')]).toEqual([
      '403 identity.account_suspended',
      notFound,
    ])
    mailbox.mails.length = 0
    for (const { email } of [suspended, closed]) await post('/password-reset', { email })
    await app.services.outbound.drain()
    expect(mailbox.mails).toEqual([])
  })
})

describe('a change of the address', () => {
  test('takes effect when the new address confirms it, and both addresses get a mail', async () => {
    const person = await register(client)
    const email = newAddress()
    const token = await askChange(person, email)
    expect((await logIn(email, person.password)).status).toBe(401)
    expect(await confirm('/email/confirm', token)).toBe('204')
    const { body } = await logIn(email, person.password)
    expect(body.user).toMatchObject({ id: person.id, email, email_verified: true })
    expect((await logIn(person.email, person.password)).status).toBe(401)
    expect(await subjects(email)).toContain('This is your e-mail address now')
    expect(await subjects(person.email)).toContain('The e-mail address of your account was changed')
  })

  test('can be undone from the former address, which ends every session, and no other account gets that address meanwhile', async () => {
    const person = await register(client)
    const email = newAddress()
    await confirm('/email/confirm', await askChange(person, email))
    const undo = await tokenTo(person.email, 'restore-email')
    const intruder = await logIn(email, person.password)
    const other = await post('/register', { email: person.email, password: person.password })
    expect(outcomeOf(other)).toBe('409 identity.email_taken')
    const stranger = await register(client)
    expect(outcomeOf(await post('/email', { email: person.email }, (await me(stranger)).access_token))).toBe('202')
    await app.services.outbound.drain()
    expect(await confirm('/email/undo', undo)).toBe('204')
    expect(outcomeOf(await client.get(`${auth}/me`, { token: intruder.body.access_token }))).toBe(
      '401 identity.not_signed_in',
    )
    expect((await logIn(person.email, person.password)).body.user.id).toBe(person.id)
    expect((await logIn(email, person.password)).status).toBe(401)
    expect(await subjects(person.email)).toContain('The change of your e-mail address was undone')
  })

  test('made twice is undone by the first address, whose link then ends that of the second', async () => {
    const person = await register(client)
    const [second, third] = [newAddress(), newAddress()]
    await confirm('/email/confirm', await askChange(person, second))
    const firstUndo = await tokenTo(person.email, 'restore-email')
    clock.advance(1_000)
    await confirm('/email/confirm', await askChange({ ...person, email: second }, third))
    const secondUndo = await tokenTo(second, 'restore-email')
    expect(await confirm('/email/undo', firstUndo)).toBe('204')
    expect(await confirm('/email/undo', secondUndo)).toBe(gone)
    expect((await logIn(person.email, person.password)).status).toBe(200)
  })

  test('to the address of another account sends no link, and that account gets a mail', async () => {
    const [person, other] = [await register(client), await register(client)]
    mailbox.mails.length = 0
    expect(outcomeOf(await post('/email', { email: other.email }, (await me(person)).access_token))).toBe('202')
    const mails = await mailsTo(other.email)
    expect(mails.map(({ subject }) => subject)).toContain('Your e-mail address is already in use')
    expect(mails.some(({ text }) => text.includes('/account/confirm-email'))).toBe(false)
  })

  test('to an address that was registered meanwhile is refused', async () => {
    const person = await register(client)
    const email = newAddress()
    const token = await askChange(person, email)
    await register(client, { email })
    expect(await confirm('/email/confirm', token)).toBe('409 identity.email_taken')
  })

  test.each<[string, (person: Person) => Promise<unknown>]>([
    ['a password reset', async ({ email }) => resetWith(await askReset(email))],
    [
      'a change of the password',
      async (person) => {
        const change = { current_password: person.password, new_password: newPassword }
        return outcomeOf(await post('/password', change, (await me(person)).access_token))
      },
    ],
    ['ending all sessions', async (person) => post('/logout-all', undefined, (await me(person)).access_token)],
    [
      'ending one session',
      async (person) => {
        const token = (await me(person)).access_token
        const { items } = (await client.get(`${auth}/sessions`, { token })).body
        const other = items.find(({ current }: { current: boolean }) => !current)
        expect((await client.delete(`${auth}/sessions/${other.id}`, { token })).status).toBe(204)
      },
    ],
    [
      'a refresh token that is used twice',
      async ({ refreshToken: refresh_token }) => {
        const used = { refresh_token }
        await post('/refresh', used)
        clock.advance(60_000)
        // The tokens of the first use were presented.
        await client.get(`${auth}/me`, { token: (await post('/refresh', used)).body.access_token ?? '' })
        clock.advance(600_000)
        expect((await post('/refresh', used)).status).toBe(401)
      },
    ],
    ['an operator who ends the sessions', async ({ id }) => operate('delete', `/${id}/sessions`)],
    ['an operator who resets the password', async ({ id }) => operate('post', `/${id}/password-reset`)],
    [
      'a suspension that is lifted again',
      async ({ id }) => {
        await operate('patch', `/${id}`, { status: 'suspended' })
        await operate('patch', `/${id}`, { status: 'active' })
      },
    ],
  ])('that an intruder asked for ends with %s', async (_what, end) => {
    const person = await register(client)
    const token = await askChange(person, newAddress())
    await end(person)
    expect(await confirm('/email/confirm', token)).toBe(gone)
    const [row] = await sql<{ email: string }[]>`select email from users where id = ${person.id}`
    expect(row?.email).toBe(person.email)
  })

  test('has the former address learn of what else is changed, while it can undo the change', async () => {
    const person = await register(client)
    const email = newAddress()
    await confirm('/email/confirm', await askChange(person, email))
    const changed = async (password: string, new_password: string) => {
      const { access_token } = (await logIn(email, password)).body
      const change = { current_password: password, new_password }
      expect((await post('/password', change, access_token)).status).toBe(200)
    }
    await changed(person.password, newPassword)
    const told = (await mailsTo(person.email)).filter(({ subject }) => subject === 'A change of your former account')
    expect(told.map(({ text }) => /changed: ([^.]+)\./.exec(text)?.[1])).toEqual(['the password was changed'])
    expect(told.map(({ text }) => text).join('')).not.toContain(email)
    expect(await subjects(email)).toContain('Your password was changed')
    clock.advance(72 * hourMs)
    await changed(newPassword, person.password)
    expect((await subjects(person.email)).filter((subject) => subject === 'A change of your former account')).toEqual([
      'A change of your former account',
    ])
  })

  test('revokes the reset tokens that went to the former address', async () => {
    const person = await register(client)
    const reset = await askReset(person.email)
    await confirm('/email/confirm', await askChange(person, newAddress()))
    expect(await resetWith(reset)).toBe(gone)
  })
})

test('a copy of the database holds no token and no address of a queued mail', async () => {
  const email = newAddress()
  const tx = app.services.mail.enqueue
  await sql.begin((given) =>
    tx(given, {
      template: 'password_reset',
      parameters: { link: 'https://x.example/#secret-token', minutes: 15 },
      to: { email },
    }),
  )
  const [row] = await sql<{ rows: string }[]>`select string_agg(t::text, ' ') as rows from outbound_tasks t`
  expect(row?.rows).not.toMatch(/secret-token|person-/)
  expect(row?.rows).toContain('sealed')
  expect(tokenIn.length).toBe(1)
})

test('closing an account deletes its tokens, its queued mails and its former addresses', async () => {
  const person = await register(client)
  const second = newAddress()
  await confirm('/email/confirm', await askChange(person, second))
  const { access_token } = await me({ ...person, email: second })
  await post('/password-reset', { email: second })
  expect((await client.delete(`${auth}/me`, { token: access_token })).status).toBe(204)
  await app.services.outbound.drain()
  const left = await sql`
    select 1 from one_time_tokens where user_id = ${person.id} union all
    select 1 from former_addresses where user_id = ${person.id} union all
    select 1 from outbound_tasks where user_id = ${person.id}`
  expect(left.count).toBe(0)
  expect((await post('/register', { email: person.email, password: person.password })).status).toBe(201)
})

describe('where addresses must be verified', () => {
  const strictMailbox = createMailbox()
  let strict: TestApp
  let there: Api
  beforeAll(async () => {
    const config = { ...strictMailbox.options.config, requireVerifiedEmail: true }
    strict = await startApp({ ...strictMailbox.options, config, clock })
    there = api(strict.baseUrl)
  })
  afterAll(() => strict.close())

  const registerThere = (email: string, password = newPassword) => there.post(`${auth}/register`, { email, password })

  test('registering answers 202 without tokens, and the account signs in once the mail has verified it', async () => {
    const email = newAddress()
    const answer = await registerThere(email)
    expect([answer.status, answer.body]).toEqual([202, { status: 'accepted' }])
    const token = await strictMailbox.tokenTo(strict, email, 'verify-email')
    const before = await there.post(`${auth}/login`, { email, password: newPassword })
    expect(outcomeOf(before)).toBe('403 identity.email_not_verified')
    expect(outcomeOf(await there.post(`${auth}/login`, { email, password: 'wrong' }))).toBe(
      '401 identity.credentials_wrong',
    )
    expect((await there.post(`${auth}/verify-email/confirm`, { token })).status).toBe(204)
    expect((await there.post(`${auth}/login`, { email, password: newPassword })).status).toBe(200)
  })

  test('registering an address that has an account gets the same answer, changes nothing, and its owner gets a mail', async () => {
    const email = newAddress()
    await registerThere(email)
    const token = await strictMailbox.tokenTo(strict, email, 'verify-email')
    expect((await there.post(`${auth}/verify-email/confirm`, { token })).status).toBe(204)
    const [known, unknown] = [
      await registerThere(email, 'another password of six words'),
      await registerThere(newAddress()),
    ]
    expect([known.status, known.body]).toEqual([unknown.status, unknown.body])
    const mails = await strictMailbox.to(strict, email)
    expect(mails.map(({ subject }) => subject)).toEqual(['Verify your e-mail address', 'You already have an account'])
    const statusOf = async (password: string) => (await there.post(`${auth}/login`, { email, password })).status
    expect([await statusOf(newPassword), await statusOf('another password of six words')]).toEqual([200, 401])
  })

  test('registering one address many times at once makes one account', async () => {
    const email = newAddress()
    await Promise.all(Array.from({ length: 10 }, () => registerThere(email)))
    await strict.services.outbound.drain()
    const mails = await strictMailbox.to(strict, email)
    const count = (wanted: string) => mails.filter(({ subject }) => subject === wanted).length
    expect(count('Verify your e-mail address')).toBe(1)
    expect(count('You already have an account')).toBeWithin(1, 6)
  })
})

test('a deployment without SMTP_URL answers 503 where a mail is needed, registers, and changes nothing else', async () => {
  const silent = await startApp({ connection: app.connection })
  const there = api(silent.baseUrl)
  const person = await register(there)
  for (const path of ['/password-reset', '/verify-email'])
    expect(outcomeOf(await there.post(auth + path, { email: person.email }))).toBe('503 mail.not_configured')
  const change = await there.post(`${auth}/email`, { email: newAddress() }, { token: person.token })
  expect(outcomeOf(change)).toBe('503 mail.not_configured')
  await silent.close()
})

test('the owner gets a mail about a sign-in from a new device and about failed ones, each once', async () => {
  const person = await register(client)
  await logInElsewhere(person.email, person.password)
  for (let n = 0; n < 10; n += 1) await logInElsewhere(person.email, 'wrong password')
  await app.services.sendNotices()
  await app.services.sendNotices()
  const got = await subjects(person.email)
  expect(got.filter((subject) => subject === 'New sign-in to your account')).toHaveLength(1)
  expect(got.filter((subject) => subject === 'Failed sign-ins to your account')).toHaveLength(1)
})

test('an invited address gets a mail whose link accepts once; names that could become links are left out', async () => {
  const [owner, guest] = [await register(client, { display_name: 'Ada Owner' }), await register(client)]
  const token = (await me(owner)).access_token
  const team = await client.post('/api/v1/teams', { name: 'Win at evil.example/prize' }, { token })
  mailbox.mails.length = 0
  const invited = await client.post(
    `/api/v1/teams/${team.body.id}/invitations`,
    { email: guest.email, role: 'editor' },
    { token },
  )
  expect(invited.status).toBe(201)
  const mail = (await mailsTo(guest.email)).find(({ subject }) => subject === 'You are invited to a team')
  expect(mail?.text).toContain('Ada Owner invites you to a team at Velro, as editor')
  expect(`${mail?.text}${mail?.html}`).not.toContain('evil.example')
  const secret = mail === undefined ? '' : tokenIn(mail)
  const accept = async () =>
    outcomeOf(
      await client.post('/api/v1/teams/invitations/accept', { secret }, { token: (await me(guest)).access_token }),
    )
  const stranger = await register(client)
  const byStranger = await client.post(
    '/api/v1/teams/invitations/accept',
    { secret },
    { token: (await me(stranger)).access_token },
  )
  expect(outcomeOf(byStranger)).toBe('404 team.invitation_not_found')
  expect([await accept(), await accept()]).toEqual(['200', '410 team.invitation_gone'])
})

test('names with line breaks or characters that reorder text are refused', async () => {
  for (const display_name of ['a\r\nBcc: x@example.com', 'a\u202eb'])
    expect(outcomeOf(await post('/register', { email: newAddress(), password: newPassword, display_name }))).toBe(
      '422 request.invalid',
    )
})
