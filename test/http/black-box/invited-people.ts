import { describe, expect, test } from 'bun:test'
import { randomBytes } from 'node:crypto'
import { until } from '../../faults/support.ts'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Group, refusal } from './driver.ts'

const users = '/api/v1/users'
const confirming = '/api/v1/auth/account-invitation/confirm'
const newAddress = () => `invited-${randomBytes(6).toString('hex')}@example.com`
const password = 'ten green bottles standing'

export const invitedPeople: Group = (world) =>
  describe('people whom operators let in', () => {
    const accept = async (token: string) => refusal(await world().post(confirming, { token, new_password: password }))

    /** The token in the newest of so many mails to an address. Undefined where the output of the server is not known. */
    const tokenTo = async (address: string, mails = 1): Promise<string | undefined> => {
      const { output } = world().subject
      if (output === undefined) return undefined
      const find = () =>
        output()
          .split('\n')
          .filter((line) => line.includes('"mail.logged"') && line.includes(`"${address}"`))
          .flatMap((line) => /\/account\/choose-password#([\w-]{43})/.exec(line)?.[1] ?? [])
      await until(() => find().length >= mails, `mail ${mails} to an invited person came`)
      return find().at(-1)
    }

    test('choose their password by the newest mail, once', async () => {
      const operator = await world().operator()
      expect(await accept('A'.repeat(43))).toBe('404 one_time_token.not_found')
      if (operator === undefined) return
      const by = { token: operator.token }
      const email = newAddress()
      const invited = await world().post(users, { email }, by)
      expect([invited.status, invited.body.email]).toEqual([201, email])
      expect(refusal(await world().post(users, { email }, by))).toBe('409 identity.email_taken')
      const first = await tokenTo(email)
      const again = await world().post(`${users}/${invited.body.id}/invitation`, undefined, by)
      expect(again.status).toBe(204)
      const second = await tokenTo(email, 2)
      if (first === undefined || second === undefined) return
      expect([await accept(first), await accept(second)]).toEqual(['410 one_time_token.gone', '204 undefined'])
      expect(await accept(second)).toBe('410 one_time_token.gone')
      const signedIn = await world().post('/api/v1/auth/login', { email, password })
      expect(signedIn.body.user).toMatchObject({ id: invited.body.id, email_verified: true })
      const third = await world().post(`${users}/${invited.body.id}/invitation`, undefined, by)
      expect(refusal(third)).toBe('409 user.has_password')
    })

    test('get no mail while they are suspended, and choose no password', async () => {
      const operator = await world().operator()
      if (operator === undefined) return
      const by = { token: operator.token }
      const email = newAddress()
      const { id } = (await world().post(users, { email }, by)).body
      const token = await tokenTo(email)
      await world().patch(`${users}/${id}`, { status: 'suspended' }, by)
      for (const flow of ['invitation', 'password-reset'])
        expect(refusal(await world().post(`${users}/${id}/${flow}`, undefined, by))).toBe('409 user.suspended')
      if (token !== undefined) expect(await accept(token)).toBe('403 identity.account_suspended')
    })

    test('lose their password and every session when an operator resets it', async () => {
      const operator = await world().operator()
      if (operator === undefined) return
      const person = await world().register()
      const reset = async (by: Person, id = person.id) =>
        refusal(await world().post(`${users}/${id}/password-reset`, undefined, { token: by.token }))
      expect(await reset(person)).toBe('403 access.admins_only')
      expect(await reset(operator, unknownId)).toBe('404 user.not_found')
      expect(await reset(operator)).toBe('204 undefined')
      expect(refusal(await world().get('/api/v1/auth/me', { token: person.token }))).toBe('401 identity.not_signed_in')
      const { email } = person
      const old = await world().post('/api/v1/auth/login', { email, password: person.password })
      expect(refusal(old)).toBe('401 identity.credentials_wrong')
      for (const [by, id, outcome] of [
        [person, person.id, '401 identity.not_signed_in'],
        [await world().register(), person.id, '403 access.admins_only'],
        [operator, unknownId, '404 user.not_found'],
      ] as const) {
        const again = await world().post(`${users}/${id}/invitation`, undefined, { token: by.token })
        expect(refusal(again)).toBe(outcome)
      }
    })
  })
