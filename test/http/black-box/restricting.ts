import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { type Group, refusal } from './driver.ts'

const modePath = '/api/v1/security/mode'
const blocksPath = '/api/v1/security/blocks'
const credentialsOf = () => ({
  email: `${crypto.randomUUID()}@example.com`,
  password: 'a long enough passphrase of three',
  display_name: 'New',
})

export const restricting: Group = (world) =>
  describe('restrictions', () => {
    let operator: Person | undefined
    let person: Person
    beforeAll(async () => {
      operator = await world().operator()
      person = await world().register()
    })
    const sending = () => ({ token: operator?.token ?? '' })
    const set = (mode: object) => world().put(modePath, mode, sending())
    const block = (asked: object) => world().post(blocksPath, asked, sending())
    afterAll(async () => {
      if (operator !== undefined) expect((await set({ mode: 'normal' })).status).toBe(200)
    })

    test('are read and set by operators alone', async () => {
      const { token } = person
      const asked = { kind: 'user', value: person.id }
      const at = `${blocksPath}/${crypto.randomUUID()}`
      for (const given of [{ token }, {}]) {
        const expected = given.token === undefined ? '401 identity.not_signed_in' : '403 access.admins_only'
        for (const answer of [
          world().get(modePath, given),
          world().put(modePath, { mode: 'lockdown' }, given),
          world().get(blocksPath, given),
          world().post(blocksPath, asked, given),
          world().delete(at, given),
        ])
          expect(refusal(await answer)).toBe(expected)
      }
    })

    test('a mode refuses what it names to everyone else until it is lifted', async () => {
      if (operator === undefined) return
      const { token } = person
      const register = () => world().post('/api/v1/auth/register', credentialsOf())
      const create = () => world().post('/api/v1/projects', { name: 'Restricted' }, { token })
      const list = () => world().get('/api/v1/projects', { token })
      const cases = [
        ['no-register', register, '503 mode.no_register', create],
        ['read-only', create, '503 mode.read_only', list],
        ['lockdown', list, '503 mode.lockdown', undefined],
      ] as const
      for (const [mode, refused, expected, passes] of cases) {
        const answer = await set({ mode, reason: 'a drill', expires_in: 60 })
        expect([answer.status, answer.body.mode, answer.body.set_by]).toEqual([200, mode, operator.id])
        expect((await world().get(modePath, sending())).body).toEqual(answer.body)
        const sent = await refused()
        expect([refusal(sent), sent.headers.get('retry-after')]).toEqual([expected, '60'])
        if (passes !== undefined) expect([200, 201]).toContain((await passes()).status)
      }
      expect((await set({ mode: 'normal' })).body).toMatchObject({ mode: 'normal', expires_at: null })
      expect((await list()).status).toBe(200)
      for (const wrong of [{}, { mode: 'off' }, { mode: 'lockdown', expires_in: 59 }])
        expect((await set(wrong)).status).toBe(422)
    })

    test('a block of an account refuses its requests until it is removed', async () => {
      if (operator === undefined) return
      const asked = { kind: 'user', value: person.id, expires_in: 60 }
      const me = () => world().get('/api/v1/auth/me', { token: person.token })
      const added = await block(asked)
      expect([added.status, added.body]).toEqual([201, expect.objectContaining({ kind: 'user', value: person.id })])
      expect(refusal(await me())).toBe('403 access.blocked')
      expect(refusal(await block(asked))).toBe('409 block.exists')
      const listed = await world().get(`${blocksPath}?kind=user`, sending())
      expect([listed.status, listed.body.items.map(({ id }: { id: string }) => id)]).toEqual([200, [added.body.id]])
      const remove = () => world().delete(`${blocksPath}/${added.body.id}`, sending())
      expect((await remove()).status).toBe(204)
      expect((await me()).status).toBe(200)
      expect(refusal(await remove())).toBe('404 block.not_found')
    })

    test('a block of a network refuses nobody outside of it, and none holds its operator or what does not exist', async () => {
      if (operator === undefined) return
      const added = await block({ kind: 'network', value: '198.51.100.0/24', expires_in: 60 })
      expect(added.status).toBe(201)
      expect((await world().get('/api/v1/auth/me', { token: person.token })).status).toBe(200)
      expect((await world().delete(`${blocksPath}/${added.body.id}`, sending())).status).toBe(204)
      const own = await world().get('/api/v1/auth/audit?limit=1', sending())
      const { address } = own.body.items[0].actor
      const kind = address.includes('/') ? 'network' : 'address'
      expect(refusal(await block({ kind, value: address }))).toBe('409 block.own_address')
      expect(refusal(await block({ kind: 'user', value: operator.id }))).toBe('409 block.own_account')
      const unknown = crypto.randomUUID()
      expect(refusal(await block({ kind: 'user', value: unknown }))).toBe('404 user.not_found')
      expect(refusal(await block({ kind: 'key', value: unknown }))).toBe('404 service_key.not_found')
      expect((await block({ kind: 'network', value: '198.51.100.7/24' })).status).toBe(422)
      expect((await world().get(`${blocksPath}?kind=country`, sending())).status).toBe(422)
    })
  })
