import { expect, test } from 'bun:test'
import { createAccountExport } from '../../src/identity/export/account-export.ts'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { newId } from '../../src/kit/id.ts'
import { until } from '../faults/support.ts'

const caller = {
  userId: newId(),
  sessionId: newId(),
  role: 'user',
  plan: 'free',
  limits: null,
  authenticatedAtMs: 0,
  origin: undefined,
} as const
const context = { requestId: 'x' } as never

const createWith = (rows: number, authenticate: () => Promise<typeof caller>, idleMs = 60_000) => {
  const page = async (_: unknown, after: string) =>
    after.startsWith('0')
      ? Array.from({ length: rows }, () => ({ id: newId(), content: { text: 'x'.repeat(1_000) } }))
      : []
  const store = { parts: { account: () => page, sessions: () => page }, media: () => async () => [] }
  return createAccountExport({
    store: store as never,
    objects: { open: async () => undefined },
    access: { authenticate: authenticate as never },
    clock: systemClock,
    startDeadline: createDeadlines(systemClock),
    record: () => {},
    idleMs,
  })
}

test('an export that its client stops reading fails after a while, and the account can start another one', async () => {
  const accountExport = createWith(400, async () => caller, 50)
  const reader = accountExport.start(context, caller, '').getReader()
  await reader.read()
  expect(() => accountExport.start(context, caller, '')).toThrow('identity.export_under_way')
  await until(async () => {
    try {
      await accountExport.start(context, caller, '').cancel()
      return true
    } catch {
      return false
    }
  }, 'another export starts')
  expect(
    (async () => {
      while (!(await reader.read()).done) {}
    })(),
  ).rejects.toThrow('was not read for 0.05 s')
})

test('an export fails once the session of its person has ended', async () => {
  let live = 1
  const accountExport = createWith(10, async () => {
    live -= 1
    if (live < 0) throw new Error('the session has ended')
    return caller
  })
  const text = new Response(accountExport.start(context, caller, '')).text()
  expect(text).rejects.toThrow('the session has ended')
  await text.catch(() => {})
  await accountExport.start(context, caller, '').cancel()
})
