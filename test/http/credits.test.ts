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
/** Runs work in a transaction, as the change of another feature does. */
const inTransaction = <T>(work: (tx: TransactionSql) => Promise<T>) => app.services.database.write.begin(work)

describe('credits', () => {
  test('of a new account are the configured welcome credits', async () => {
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

  test('are listed in the ledger newest first, and the pages together are the whole ledger', async () => {
    const ada = await register(client)
    const { credits } = app.services
    const [one, two, three] = [newId(), newId(), newId()]
    await inTransaction((tx) => credits.reserve(tx, ada.id, one, 10))
    await inTransaction((tx) => credits.reserve(tx, ada.id, two, 20))
    await inTransaction((tx) => credits.settle(tx, one))
    await inTransaction((tx) => credits.refund(tx, two))
    await inTransaction((tx) => credits.reserve(tx, ada.id, three, 0))
    const { items, next_cursor } = await ledgerOf(ada)
    const entries = items.map((entry: Record<string, unknown>) => [
      entry['kind'],
      entry['amount'],
      entry['balance_after'],
      entry['generation_id'],
    ])
    expect(entries).toEqual([
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

  test('are listed in the order in which they changed the balance, after concurrent orders and cancellations on two instances', async () => {
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

  test('cannot be granted to a closed or unknown account', async () => {
    const ada = await register(client)
    expect((await client.delete('/api/v1/auth/me', { token: ada.token })).status).toBe(204)
    for (const gone of [ada.id, newId()]) {
      const { status, body } = await grant(gone)
      expect([status, body.code]).toEqual([404, 'user.not_found'])
    }
  })
})

describe('a fault of insufficient credits', () => {
  test('has the missing amount, the balance and the price as extension members of its problem', async () => {
    const ada = await register(client)
    const fault = await inTransaction((tx) => app.services.credits.reserve(tx, ada.id, newId(), 1_024)).catch(
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

  test('has its extension members in the schema of each route that declares it', () => {
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

  test('requires its extension members in the type, and other faults refuse them', () => {
    // @ts-expect-error the extension members are required
    expect(new Fault('credits.insufficient').extensions).toBeUndefined()
    // @ts-expect-error all of them are required
    new Fault('credits.insufficient', { extensions: { missing: 1 } })
    // @ts-expect-error this fault has no extension members
    new Fault('team.not_found', { extensions: { missing: 1 } })
    expect(new Fault('team.not_found').extensions).toBeUndefined()
  })
})

describe('a grant of credits', () => {
  test('is entered in the ledger with the operator who granted it, and its amount and note are validated', async () => {
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

  test('sent twenty times concurrently with one idempotency key is made once, and all get the same answer', async () => {
    const ada = await register(client)
    const key = { 'idempotency-key': newId() }
    const answers = await Promise.all(Array.from({ length: 20 }, () => grant(ada.id, {}, key)))
    expect(new Set(answers.map(({ status, body }) => `${status} ${JSON.stringify(body)}`)).size).toBe(1)
    expect(answers.filter(({ headers }) => headers.get('idempotent-replayed') !== 'true')).toHaveLength(1)
    expect(await balanceOf(ada)).toBe(1_005)
    // A body with its members in another order counts as the same.
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

  test('with a key already used for another body is refused; a key whose request failed is free', async () => {
    const ada = await register(client)
    const key = { 'idempotency-key': newId() }
    expect((await grant(newId(), {}, key)).body.code).toBe('user.not_found')
    expect((await grant(ada.id, {}, key)).status).toBe(201)
    const { status, body } = await grant(ada.id, { amount: 6 }, key)
    expect([status, body.code]).toEqual([422, 'request.idempotency_key_reused'])
    expect(await balanceOf(ada)).toBe(1_005)
  })

  test('without a key is made each time', async () => {
    const ada = await register(client)
    const answers = [await grant(ada.id), await grant(ada.id)]
    expect(answers.map(({ headers }) => headers.get('idempotent-replayed'))).toEqual([null, null])
    expect(await balanceOf(ada)).toBe(1_010)
  })

  test('accepts a key of 1 to 255 visible ASCII characters, and names the header of an invalid one', async () => {
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
