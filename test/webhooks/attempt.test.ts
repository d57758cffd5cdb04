import { expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { createLog } from '../../src/platform/log.ts'
import { FetchRefused } from '../../src/platform/safe-fetch.ts'
import type { SafePost } from '../../src/platform/safe-post.ts'
import { createAttempt } from '../../src/webhooks/attempt.ts'
import type { Failure, LeasedDelivery } from '../../src/webhooks/delivery-store.ts'

const clock = manualClock()
const delivery: LeasedDelivery = {
  webhook_id: 'w',
  event_id: 'e',
  attempts: 1,
  queued_at: new Date(clock.now()),
  type: 'user.created',
  data: { user_id: 'u' },
  occurred_at: new Date(clock.now()),
  url: 'https://hooks.example.com/',
  host: 'receiver.example',
  team_id: 'a team',
  failures: 0,
  secret: new Uint8Array([1]),
  previous_secret: null,
}

/** One attempt, with what it stored and logged. */
const attemptWith = async (
  post: SafePost,
  {
    given = {},
    unseal = (_: string, sealed: Uint8Array) => sealed,
    stopped = new AbortController().signal,
  }: {
    given?: Partial<LeasedDelivery>
    unseal?: (id: string, sealed: Uint8Array) => Uint8Array
    stopped?: AbortSignal
  } = {},
) => {
  const stored: unknown[] = []
  const logged: string[] = []
  const attempt = createAttempt({
    store: {
      complete: async (_, status) => void stored.push(`complete ${status}`),
      fail: async (_, failure: Failure) => void stored.push(failure),
      resume: async () => void stored.push('resume'),
      release: async () => void stored.push('release'),
    },
    post,
    unseal,
    internalHosts: ['billing.internal:8080'],
    clock,
    log: createLog('warn', { write: (line: string) => void logged.push(JSON.parse(line).event) }),
    random: () => 0.5,
  })
  await attempt({ ...delivery, ...given }, stopped)
  return { stored, logged }
}
const answering =
  (status: number, retryAfter?: string): SafePost =>
  async () => ({ status, retryAfter })
const pauseOf = async (post: SafePost, given: Partial<LeasedDelivery>) => {
  const { stored } = await attemptWith(post, { given })
  const { retryAt } = stored[0] as Failure
  return retryAt === null ? 'never' : (retryAt.getTime() - clock.now()) / 1_000
}

test('pauses double from 5 seconds up to an hour, and are longer where Retry-After asks for up to an hour', async () => {
  const pauses = await Promise.all([1, 2, 3, 10, 11, 1_000].map((attempts) => pauseOf(answering(500), { attempts })))
  expect(pauses).toEqual([5, 10, 20, 2_560, 3_600, 3_600])
  for (const [retryAfter, pause] of [
    ['120', 120],
    ['1', 5],
    ['-1', 5],
    ['soon', 5],
    ['99999999', 3_600],
  ] as const) {
    expect([retryAfter, await pauseOf(answering(503, retryAfter), {})]).toEqual([retryAfter, pause])
  }
})

test('an attempt that fails 24 hours after the event was queued is the last, and so is one that is answered 410', async () => {
  const queued = (hours: number) => ({ queued_at: new Date(clock.now() - hours * 3_600_000) })
  expect(await pauseOf(answering(500), queued(23.9))).toBe(5)
  expect(await pauseOf(answering(500), queued(24))).toBe('never')
  const gone = await attemptWith(answering(410))
  expect([gone.stored, gone.logged]).toMatchObject([
    [{ isGone: true, retryAt: null, status: 410 }],
    ['webhook.given_up'],
  ])
})

test('only a status of 2xx is a success, after which a failing webhook resumes', async () => {
  for (const status of [200, 202, 204, 299])
    expect((await attemptWith(answering(status))).stored).toEqual([`complete ${status}`])
  for (const status of [199, 300, 301, 304, 400, 404, 500])
    expect((await attemptWith(answering(status))).stored).toMatchObject([{ error: 'status', status }])
  expect((await attemptWith(answering(204), { given: { failures: 4 } })).stored).toEqual(['complete 204'])
  expect((await attemptWith(answering(204), { given: { failures: 5 } })).stored).toEqual(['complete 204', 'resume'])
})

test('an error is stored as one of five words, and never as text of the network', async () => {
  for (const [error, word] of [
    [new FetchRefused('address', 'The host has an address that is not public'), 'address'],
    [new FetchRefused('url', 'The URL is malformed'), 'url'],
    [new DOMException('No answer in time', 'TimeoutError'), 'timeout'],
    [Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }), 'connection'],
    [Object.assign(new Error('expired'), { code: 'CERT_HAS_EXPIRED' }), 'tls'],
  ] as const) {
    const { stored } = await attemptWith(() => Promise.reject(error))
    expect(stored).toMatchObject([{ error: word, status: null }])
  }
})

test('the hosts of our own network are open to webhooks of operators only', async () => {
  const asked: (readonly string[])[] = []
  const post: SafePost = async (_, { internalHosts }) => {
    asked.push(internalHosts)
    return { status: 204, retryAfter: undefined }
  }
  for (const team_id of [null, 'a team']) await attemptWith(post, { given: { team_id } })
  expect(asked).toEqual([['billing.internal:8080'], []])
})

test('an instance that is stopping gives the lease back, and one that cannot unseal the secret sends and stores nothing', async () => {
  const stopping = new AbortController()
  const hanging: SafePost = (_, { signal }) =>
    new Promise((_resolve, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason))
      stopping.abort()
    })
  expect((await attemptWith(hanging, { stopped: stopping.signal })).stored).toEqual(['release'])
  const unseal = () => {
    throw new Error('sealed under another SECRET')
  }
  const unsent = await attemptWith(() => Promise.reject(new Error('A request was sent')), { unseal })
  expect(unsent).toEqual({ stored: [], logged: ['webhook.secret_refused'] })
})
