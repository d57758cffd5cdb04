import { beforeAll, describe, expect, test } from 'bun:test'
import { randomUUID } from 'node:crypto'
import type { Person } from '../../harness.ts'
import { unknownId } from './document.ts'
import { type Group, refusal } from './driver.ts'

const path = '/api/v1/credits'

export const credits: Group = (world) =>
  describe('credits', () => {
    let operator: Person | undefined
    let person: Person
    beforeAll(async () => {
      operator = await world().operator()
      person = await world().register()
    })
    const balanceOf = async ({ token }: Person) => (await world().get(`${path}/balance`, { token })).body.balance
    const ledgerOf = async ({ token }: Person) => (await world().get(`${path}/ledger`, { token })).body.items
    const grant = (by: Person, input: object = {}, headers: Record<string, string> = {}) =>
      world().post(
        `${path}/grants`,
        { user_id: person.id, amount: 40, note: 'welcome back', ...input },
        { token: by.token, headers },
      )

    test('are granted to a new account, with an entry in the ledger', async () => {
      const balance = await balanceOf(person)
      const ledger = await ledgerOf(person)
      expect(balance).toBe(1_000)
      expect(ledger).toEqual([
        {
          id: ledger[0].id,
          kind: 'welcome',
          amount: 1_000,
          balance_after: 1_000,
          generation_id: null,
          note: '',
          created_at: expect.any(String),
        },
      ])
    })

    test('are visible to their owner only, and granted by operators only', async () => {
      for (const place of ['balance', 'ledger']) {
        expect(refusal(await world().get(`${path}/${place}`))).toBe('401 identity.not_signed_in')
      }
      expect(refusal(await grant(person))).toBe('403 access.admins_only')
      expect(await balanceOf(person)).toBe(1_000)
    })

    test('that are granted appear at once in the balance and in the paged ledger', async () => {
      if (operator === undefined) return
      const [before, other] = [await balanceOf(person), await world().register()]
      const { status, body } = await grant(operator)
      expect([status, body.balance_after]).toEqual([201, before + 40])
      const [newest, ...rest] = await ledgerOf(person)
      const { user_id, created_by, ...entry } = body
      expect([user_id, created_by, newest]).toEqual([person.id, operator.id, entry])
      expect(rest).toHaveLength(1)
      const sum = (await ledgerOf(person)).reduce((total: number, { amount }: { amount: number }) => total + amount, 0)
      expect(await balanceOf(person)).toBe(sum)
      const { body: first } = await world().get(`${path}/ledger?limit=1`, { token: person.token })
      const { body: second } = await world().get(`${path}/ledger?limit=1&cursor=${first.next_cursor}`, {
        token: person.token,
      })
      expect([first.items[0].id, second.items[0].id, second.next_cursor]).toEqual([newest.id, rest[0].id, null])
      expect(await balanceOf(other)).toBe(1_000)
      expect(refusal(await grant(operator, { user_id: unknownId }))).toBe('404 user.not_found')
    })

    test('are granted once when a request is retried with its idempotency key', async () => {
      if (operator === undefined) return
      const by = operator
      const key = { 'idempotency-key': randomUUID() }
      const before = await balanceOf(person)
      const answers = await Promise.all(Array.from({ length: 8 }, () => grant(by, {}, key)))
      expect(answers.map(({ status }) => status)).toEqual(Array(8).fill(201))
      expect(new Set(answers.map(({ text }) => text)).size).toBe(1)
      const replayed = answers.map(({ headers }) => headers.get('idempotent-replayed'))
      expect(replayed.toSorted()).toEqual([null, ...Array(7).fill('true')].toSorted())
      expect(await balanceOf(person)).toBe(before + 40)
      expect(refusal(await grant(by, { amount: 41 }, key))).toBe('422 request.idempotency_key_reused')
      for (const wrong of ['', 'x'.repeat(256), 'two words', 'caf\u00e9']) {
        const answer = await grant(by, {}, { 'idempotency-key': wrong })
        expect([wrong, refusal(answer), answer.body.errors?.[0]?.pointer]).toEqual([
          wrong,
          '422 request.invalid',
          '/idempotency-key',
        ])
      }
      expect(await balanceOf(person)).toBe(before + 40)
    })
  })
