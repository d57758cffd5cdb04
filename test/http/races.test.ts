import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { hash } from '@node-rs/argon2'
import { argon2Options } from '../../src/identity/passwords.ts'
import { connectOnce } from '../../src/platform/postgres.ts'
import { holdUser } from '../faults/support.ts'
import { type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const signIns = 6
const rounds = 4
const newPassword = 'quite another passphrase'

/** All calls about one account wait for its row, and continue when it is released. */
describe('sign-ins concurrent with a change of the account:', () => {
  let app: TestApp
  let client: Api
  beforeAll(async () => {
    // Enough connections for all of them to wait in the database, not for a connection.
    app = await startApp({ passwordCost: argon2Options, config: { dbConnections: 100 } })
    client = api(app.baseUrl)
  })
  afterAll(() => app.close())

  const login = ({ email, password }: Person) => client.post('/api/v1/auth/login', { email, password })
  const countUsable = async (answers: readonly { status: number; body: { access_token: string } }[]) => {
    const uses = answers
      .filter(({ status }) => status === 200)
      .map(({ body }) => client.get('/api/v1/auth/me', { token: body.access_token }))
    return (await Promise.all(uses)).filter(({ status }) => status === 200).length
  }

  /** Starts the change and the sign-ins in the given order until they wait for the row, then releases it. */
  const race = async (person: Person, first: 'change' | 'sign-ins', change: () => Promise<{ status: number }>) => {
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

  test('with a password hash of older parameters all succeed, and the hash is renewed', async () => {
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
    test(`after a change of the password no session of the old one is usable, if the ${first} came first`, async () => {
      for (let round = 0; round < rounds; round += 1) {
        const person = await register(client)
        const { changed, answers } = await race(person, first, () =>
          client.post(
            '/api/v1/auth/password',
            { current_password: person.password, new_password: newPassword },
            { token: person.token },
          ),
        )
        expect(changed).toBe(200)
        expect(await countUsable(answers)).toBe(0)
        expect((await login({ ...person, password: newPassword })).status).toBe(200)
      }
    })

    test(`after the account is closed no session of it is usable, if the ${first} came first`, async () => {
      for (let round = 0; round < rounds; round += 1) {
        const person = await register(client)
        const { changed, answers } = await race(person, first, () =>
          client.delete('/api/v1/auth/me', { token: person.token }),
        )
        expect(changed).toBe(204)
        expect(await countUsable(answers)).toBe(0)
      }
    })
  }
})
