import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { Fault, type FaultCode, toProblem } from '../../src/fault.ts'
import { contract } from '../../src/http/contract.ts'
import { noContent } from '../../src/http/schema-types.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { newId } from '../../src/kit/id.ts'
import type { TransactionSql } from '../../src/platform/postgres.ts'
import { type Api, api, type Person, register, startApp, type TestApp } from '../harness.ts'

const clock = manualClock(Date.now())
let app: TestApp
let client: Api
let operator: Person

beforeAll(async () => {
  app = await startApp({ clock })
  client = api(app.baseUrl)
  operator = await register(client)
  await app.services.database.admin`update users set role = 'admin' where id = ${operator.id}`
})
afterAll(() => app?.close())

const balanceOf = async ({ token }: Person) => (await client.get('/api/v1/credits/balance', { token })).body.balance
const ledgerOf = async ({ token }: Person, query = '') =>
  (await client.get(`/api/v1/credits/ledger${query}`, { token })).body
const grant = (to: string, input: object = {}, headers: Record<string, string> = {}) =>
  client.post(
    '/api/v1/credits/grants',
    { user_id: to, amount: 5, note: 'for patience', ...input },
    { token: operator.token, headers },
  )
/** As a change of some other feature does it. */
const changing = <T>(work: (tx: TransactionSql) => Promise<T>) => app.services.database.write.begin(work)

describe('credits', () => {
  test('of somebody new are the configured ones, in the same transaction as the account', async () => {
    const ada = await register(client)
    expect(await balanceOf(ada)).toBe(1_000)
    expect((await ledgerOf(ada)).items).toMatchObject([
      { kind: 'welcome', amount: 1_000, balance_after: 1_000, note: '' },
    ])
    for (const [welcomeCredits, kinds] of [
      [0, []],
      [7, ['welcome']],
    ] as const) {
      const other = await startApp({ connection: app.connection, config: { welcomeCredits } })
      try {
        const ben = await register(api(other.baseUrl))
        expect(await balanceOf(ben)).toBe(welcomeCredits)
        expect((await ledgerOf(ben)).items.map(({ kind }: { kind: string }) => kind)).toEqual([...kinds])
      } finally {
        await other.close()
      }
    }
  })

  test('are told entry by entry, newest first, to their owner alone, and pages together are all of it', async () => {
    const ada = await register(client)
    const { credits } = app.services
    const [one, two, three] = [newId(), newId(), newId()]
    await changing((tx) => credits.reserve(tx, ada.id, one, 10))
    await changing((tx) => credits.reserve(tx, ada.id, two, 20))
    await changing((tx) => credits.settle(tx, one))
    await changing((tx) => credits.refund(tx, two))
    await changing((tx) => credits.reserve(tx, ada.id, three, 0))
    const { items, next_cursor } = await ledgerOf(ada)
    const told = items.map((entry: Record<string, unknown>) => [
      entry['kind'],
      entry['amount'],
      entry['balance_after'],
      entry['generation_id'],
    ])
    expect(told).toEqual([
      ['reserve', 0, 990, three],
      ['refund', 20, 990, two],
      ['settle', 0, 970, one],
      ['reserve', -20, 970, two],
      ['reserve', -10, 990, one],
      ['welcome', 1_000, 1_000, null],
    ])
    expect(next_cursor).toBeNull()
    expect(await balanceOf(ada)).toBe(990)
    const paged: unknown[] = []
    for (let cursor: string | null = ''; cursor !== null; ) {
      const page: { items: unknown[]; next_cursor: string | null } = await ledgerOf(
        ada,
        `?limit=4${cursor && `&cursor=${cursor}`}`,
      )
      paged.push(...page.items)
      cursor = page.next_cursor
    }
    expect(paged).toEqual(items)
  })

  test('and are in the order in which they changed the balance, after many orders and cancels at once on two instances', async () => {
    const ada = await register(client)
    const other = await startApp({ connection: app.connection })
    try {
      const clients = [client, api(other.baseUrl)]
      const asked = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64 } }
      const token = ada.token
      const order = (number: number) => clients[number % 2]?.post('/api/v1/generations', asked, { token })
      const cancel = (id: string, number: number) =>
        clients[number % 2]?.post(`/api/v1/generations/${id}/cancel`, undefined, { token })
      for (let round = 0; round < 5; round += 1) {
        const made = await Promise.all(Array.from({ length: 10 }, (_, number) => order(number)))
        const answers = await Promise.all(
          made.flatMap((answer, number) => [cancel(answer?.body.id, number + 1), order(number)]),
        )
        expect(new Set(answers.map((answer) => answer?.status))).toEqual(new Set([200, 201]))
      }
    } finally {
      await other.close()
    }
    const items: { amount: number; balance_after: number; created_at: string }[] = []
    for (let cursor: string | null = ''; cursor !== null; ) {
      const page: { items: typeof items; next_cursor: string | null } = await ledgerOf(
        ada,
        `?limit=50${cursor && `&cursor=${cursor}`}`,
      )
      items.push(...page.items)
      cursor = page.next_cursor
    }
    expect(items).toHaveLength(1 + 5 * 30)
    const before = items.slice(1)
    expect(before.map(({ balance_after }, at) => balance_after + (items[at]?.amount ?? 0))).toEqual(
      items.slice(0, -1).map(({ balance_after }) => balance_after),
    )
    expect(items.map(({ created_at }) => created_at)).toEqual(
      items
        .map(({ created_at }) => created_at)
        .sort()
        .reverse(),
    )
    expect(items[0]?.balance_after).toBe(await balanceOf(ada))
  }, 60_000)

  test('outlive the account as entries, and nobody can be given any after it', async () => {
    const ada = await register(client)
    expect((await client.delete('/api/v1/auth/me', { token: ada.token })).status).toBe(204)
    for (const gone of [ada.id, newId()]) {
      const { status, body } = await grant(gone)
      expect([status, body.code]).toEqual([404, 'user.not_found'])
    }
  })
})

describe('what is missing', () => {
  test('is told as figures of the problem, beside the standard members', async () => {
    const ada = await register(client)
    const fault = await changing((tx) => app.services.credits.reserve(tx, ada.id, newId(), 1_024)).catch(
      (error: unknown) => error,
    )
    expect(fault).toBeInstanceOf(Fault)
    expect(toProblem(fault as Fault, '/api/v1/generations', 'r')).toEqual({
      type: 'urn:velro:problem:credits.insufficient',
      title: 'Payment Required',
      status: 402,
      detail: 'The price is 1024 credits, but the balance is 1000',
      instance: '/api/v1/generations',
      code: 'credits.insufficient',
      request_id: 'r',
      missing: 24,
      balance: 1_000,
      price: 1_024,
    } as never)
  })

  test('is in the schema of every route that says so', () => {
    const about = (faults: FaultCode[]) =>
      contract({}, { 204: noContent }, { summary: 's', tags: [], errors: faults }).detail.responses['402']?.content?.[
        'application/problem+json'
      ]?.schema
    const integer = { type: 'integer', description: expect.any(String) }
    expect(about(['credits.insufficient'])).toEqual({
      allOf: [
        { $ref: '#/components/schemas/problem' },
        {
          type: 'object',
          properties: { code: { enum: ['credits.insufficient'] }, missing: integer, balance: integer, price: integer },
          required: ['missing', 'balance', 'price'],
        },
      ],
    })
  })

  test('cannot be forgotten, nor said by a fault that is not about it', () => {
    // @ts-expect-error its figures are not optional
    expect(new Fault('credits.insufficient').extensions).toBeUndefined()
    // @ts-expect-error all of them
    new Fault('credits.insufficient', { extensions: { missing: 1 } })
    // @ts-expect-error this one has none
    new Fault('team.not_found', { extensions: { missing: 1 } })
    expect(new Fault('team.not_found').extensions).toBeUndefined()
  })
})

describe('a grant', () => {
  test('is entered in the name of who gave it', async () => {
    const ada = await register(client)
    const { status, body } = await grant(ada.id, { amount: 25 })
    expect(status).toBe(201)
    const { user_id, created_by, ...entry } = body
    expect([user_id, created_by]).toEqual([ada.id, operator.id])
    expect(entry).toMatchObject({ kind: 'grant', amount: 25, balance_after: 1_025, note: 'for patience' })
    expect((await ledgerOf(ada)).items[0]).toEqual(entry)
    for (const input of [
      { amount: 0 },
      { amount: 1_000_001 },
      { amount: 1.5 },
      { note: ' ' },
      { note: 'x'.repeat(501) },
    ]) {
      expect((await grant(ada.id, input)).status).toBe(422)
    }
    expect((await grant(ada.id, { amount: 1_000_000 })).body.balance_after).toBe(1_001_025)
  })

  test('twenty times at once with one key is one grant, and twenty times the same answer', async () => {
    const ada = await register(client)
    const key = { 'idempotency-key': newId() }
    const answers = await Promise.all(Array.from({ length: 20 }, () => grant(ada.id, {}, key)))
    expect(new Set(answers.map(({ status, body }) => `${status} ${JSON.stringify(body)}`)).size).toBe(1)
    expect(answers.filter(({ headers }) => headers.get('idempotent-replayed') !== 'true')).toHaveLength(1)
    expect(await balanceOf(ada)).toBe(1_005)
    // The members in another order are the same body.
    const again = await client.post(
      '/api/v1/credits/grants',
      { note: 'for patience', amount: 5, user_id: ada.id },
      { token: operator.token, headers: key },
    )
    expect([again.status, again.body, again.headers.get('idempotent-replayed')]).toEqual([
      201,
      answers[0]?.body,
      'true',
    ])
  })

  test('with a key that came with another body is refused, and one that failed was none', async () => {
    const ada = await register(client)
    const key = { 'idempotency-key': newId() }
    expect((await grant(newId(), {}, key)).body.code).toBe('user.not_found')
    expect((await grant(ada.id, {}, key)).status).toBe(201)
    const { status, body } = await grant(ada.id, { amount: 6 }, key)
    expect([status, body.code]).toEqual([422, 'request.idempotency_key_reused'])
    expect(await balanceOf(ada)).toBe(1_005)
  })

  test('without a key is given each time', async () => {
    const ada = await register(client)
    const answers = [await grant(ada.id), await grant(ada.id)]
    expect(answers.map(({ headers }) => headers.get('idempotent-replayed'))).toEqual([null, null])
    expect(await balanceOf(ada)).toBe(1_010)
  })

  test('takes a key of 1 to 255 characters that can be seen, and says which header is wrong', async () => {
    const ada = await register(client)
    for (const key of ['!', '~'.repeat(255), '"8e03978e-40d5-43dd-bc93-6894a57f9324"']) {
      expect([key, (await grant(ada.id, {}, { 'idempotency-key': key })).status]).toEqual([key, 201])
    }
    for (const key of ['', 'x'.repeat(256), 'a b', 'a, b', 'é', 'a\tb']) {
      const { status, body } = await grant(ada.id, {}, { 'idempotency-key': key })
      expect([key, status, body.code, body.errors]).toEqual([
        key,
        422,
        'request.invalid',
        [{ in: 'headers', pointer: '/idempotency-key', detail: 'must be 1 to 255 visible ASCII characters' }],
      ])
    }
  })
})
