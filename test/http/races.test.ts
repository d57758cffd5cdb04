import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { hash } from '@node-rs/argon2'
import { argon2Options } from '../../src/identity/passwords.ts'
import { connectOnce } from '../../src/platform/postgres.ts'
import { holdUser } from '../faults/support.ts'
import { type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const signIns = 6
const rounds = 4
const newPassword = 'quite another passphrase'

/** Everything that wants to touch one person's row is made to wait for it, and then let go at the same moment. */
describe('sign-ins that meet a change in the database', () => {
  let app: TestApp
  let client: Api
  beforeAll(async () => {
    // Enough for all of them to wait in the database and not before it.
    app = await startApp({ config: { dbConnections: 100 } })
    client = api(app.baseUrl)
  })
  afterAll(() => app.close())

  const login = ({ email, password }: Person) => client.post('/api/v1/auth/login', { email, password })
  const livingOf = async (answers: readonly { status: number; body: { access_token: string } }[]) => {
    const uses = answers
      .filter(({ status }) => status === 200)
      .map(({ body }) => client.get('/api/v1/auth/me', { token: body.access_token }))
    return (await Promise.all(uses)).filter(({ status }) => status === 200).length
  }

  /** Runs the change and the sign-ins up to the row, in the order given, and lets them all go. */
  const meet = async (person: Person, first: 'change' | 'sign-ins', change: () => Promise<{ status: number }>) => {
    const hold = await holdUser(app.connection, person.id)
    const begin = {
      change: () => [change()],
      'sign-ins': () => Array.from({ length: signIns }, () => login(person)),
    }
    const early = begin[first]()
    await hold.waiting(early.length)
    const late = begin[first === 'change' ? 'sign-ins' : 'change']()
    await hold.waiting(early.length + late.length)
    await hold.release()
    const answers = await Promise.all([...early, ...late])
    const changed = first === 'change' ? answers[0] : answers.at(-1)
    return { changed: changed?.status, answers: answers.filter((answer) => answer !== changed) as never[] }
  }

  test('of a hash made with older parameters: all succeed, and it is renewed once', async () => {
    const sql = connectOnce(app.connection)
    try {
      for (let round = 0; round < rounds; round += 1) {
        const person = await register(client)
        const old = await hash(person.password, { memoryCost: 8_192, timeCost: 1, parallelism: 1 })
        await sql`update users set password_hash = ${old} where id = ${person.id}`
        const hold = await holdUser(app.connection, person.id)
        const answers = Array.from({ length: signIns }, () => login(person))
        await hold.waiting(signIns)
        await hold.release()
        expect((await Promise.all(answers)).map(({ status }) => status)).toEqual(Array(signIns).fill(200))
        const [row] = await sql<{ renewed: boolean }[]>`
          select password_hash like ${`$argon2id$v=19$m=${argon2Options.memoryCost},%`} as renewed
            from users where id = ${person.id}`
        expect(row?.renewed).toBe(true)
        expect((await login(person)).status).toBe(200)
      }
    } finally {
      await sql.end()
    }
  })

  for (const first of ['change', 'sign-ins'] as const) {
    test(`a password: no session of the old one lives on, when the ${first} came first`, async () => {
      for (let round = 0; round < rounds; round += 1) {
        const person = await register(client)
        const { changed, answers } = await meet(person, first, () =>
          client.post(
            '/api/v1/auth/password',
            { current_password: person.password, new_password: newPassword },
            { token: person.token },
          ),
        )
        expect(changed).toBe(204)
        expect(await livingOf(answers)).toBe(0)
        expect((await login({ ...person, password: newPassword })).status).toBe(200)
      }
    })

    test(`the end of the account: no session of it lives on, when the ${first} came first`, async () => {
      for (let round = 0; round < rounds; round += 1) {
        const person = await register(client)
        const { changed, answers } = await meet(person, first, () =>
          client.delete('/api/v1/auth/me', { token: person.token }),
        )
        expect(changed).toBe(204)
        expect(await livingOf(answers)).toBe(0)
      }
    })
  }
})
