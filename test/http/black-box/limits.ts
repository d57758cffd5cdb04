import { beforeAll, describe, expect, test } from 'bun:test'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Group, refusal } from './driver.ts'

const path = '/api/v1/security/limits'

export const limits: Group = (world) =>
  describe('limits', () => {
    let operator: Person | undefined
    let person: Person
    beforeAll(async () => {
      operator = await world().operator()
      person = await world().register()
    })
    const list = (by: Person) => world().get(path, { token: by.token })
    const lift = (key: string, by: Person) => world().post(`${path}/lift`, { budget: 'api', key }, { token: by.token })

    test('are listed and lifted by operators only', async () => {
      expect(refusal(await list(person))).toBe('403 access.admins_only')
      expect(refusal(await lift(person.id, person))).toBe('403 access.admins_only')
    })

    test('are lifted whether or not the key has reached them', async () => {
      if (operator === undefined) return
      for (const key of [person.id, unknownId]) expect((await lift(key, operator)).status).toBe(204)
      const { status, body } = await list(operator)
      expect([status, body.items.some(({ key }: { key: string }) => key === person.id)]).toEqual([200, false])
    })
  })
