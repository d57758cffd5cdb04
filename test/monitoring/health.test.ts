import { describe, expect, test } from 'bun:test'
import { manualClock } from '../../src/kit/clock.ts'
import { createComponents } from '../../src/monitoring/components.ts'
import { createHealth, degraded, down, type Finding, up } from '../../src/monitoring/health.ts'
import { createRecorder } from '../../src/monitoring/recorder.ts'

const aggregate = { answeredBy: 'one', included: ['one'], missing: [], membersKnown: true } as never

describe('health', () => {
  const start = (found: Record<string, Finding>) => {
    const clock = manualClock()
    const components = Object.fromEntries(Object.keys(found).map((name) => [name, () => found[name] as Finding]))
    return { clock, health: createHealth({ components, modeInForce: () => 'normal', clock }) }
  }

  test('is down without Postgres, degraded without anything else, and up otherwise', () => {
    const found: Record<string, Finding> = { postgres: up, redis: up }
    const { health } = start(found)
    const seen = [health.read(aggregate).status]
    found['redis'] = down('gone')
    seen.push(health.read(aggregate).status)
    found['redis'] = degraded('slow')
    seen.push(health.read(aggregate).status)
    found['postgres'] = down('gone')
    seen.push(health.read(aggregate).status)
    found['redis'] = { state: 'off' }
    found['postgres'] = up
    seen.push(health.read(aggregate).status)
    expect(seen).toEqual(['up', 'degraded', 'degraded', 'down', 'up'])
  })

  test('says since when each component has its state, from the first look that found it', () => {
    const found: Record<string, Finding> = { postgres: up, redis: up }
    const { health, clock } = start(found)
    health.observe()
    const startedMs = clock.now()
    clock.advance(5_000)
    found['redis'] = down('gone')
    health.observe()
    clock.advance(5_000)
    found['redis'] = down('gone again')
    const { components } = health.read(aggregate)
    expect(components).toEqual([
      { name: 'postgres', state: 'up', since: new Date(startedMs).toISOString(), detail: null },
      { name: 'redis', state: 'down', since: new Date(startedMs + 5_000).toISOString(), detail: 'gone again' },
    ])
  })
})

describe('the components of an instance', () => {
  type Dependencies = Parameters<typeof createComponents>[0]
  const recorder = () => createRecorder({ clock: manualClock() })
  const healthy = (): Dependencies => ({
    caches: {
      bus: { noLeaseReason: () => undefined, membersOfOtherVersion: () => [] } as never,
      redisUse: () => 'used',
    },
    notificationQueue: { isFilling: false },
    watch: { isOpen: () => false },
    redis: { state: () => 'up' },
    breakers: { list: () => [{ name: 'storage', dependency: 'storage', state: 'closed' }] as never },
    mail: { isConfigured: true, isWorking: () => true },
    siem: { figures: { state: 'sending', sent: 0, failures: 0, lag: { events: 0, seconds: 0 } } },
    auditSink: { figures: { queued: 0, dropped: 0, written: 0 } },
    chainer: { figures: { linked: 0, restarted: 0, lagMs: 0 } },
    collector: {
      workers: () => ({ hashing: { size: 2, busy: 1, waiting: 0 }, rendering: { size: 1, busy: 1, waiting: 0 } }),
    },
    recorder: recorder(),
  })
  const statesOf = (given: Dependencies) =>
    Object.fromEntries(Object.entries(createComponents(given)).map(([name, find]) => [name, find().state]))

  test('are up, or off where nothing is configured', () => {
    expect(new Set(Object.values(statesOf({ ...healthy(), breakers: { list: () => [] } })))).toEqual(
      new Set(['up', 'off']),
    )
    const bare = statesOf({
      ...healthy(),
      redis: undefined,
      siem: undefined,
      mail: { isConfigured: false, isWorking: () => true },
    })
    expect([bare['redis'], bare['siem'], bare['mail'], bare['providers']]).toEqual(['off', 'off', 'off', 'off'])
  })

  const slow = recorder()
  for (let at = 0; at < 30; at += 1) {
    slow.statement({ pool: 'read', ms: 1, waitMs: 200, failed: false })
    slow.record('event_loop', 300, false)
  }
  const busy = { hashing: { size: 2, busy: 2, waiting: 3 }, rendering: { size: 1, busy: 0, waiting: 0 } }
  const bus = (reason: string | undefined, others: string[] = []) =>
    ({ bus: { noLeaseReason: () => reason, membersOfOtherVersion: () => others }, redisUse: () => 'used' }) as never
  const cases: [what: string, component: string, state: string, detail: RegExp, given: Partial<Dependencies>][] = [
    ['Postgres does not answer', 'postgres', 'down', /does not answer/, { watch: { isOpen: () => true } }],
    ['Redis is gone', 'redis', 'down', /not connected/, { redis: { state: () => 'down' } }],
    ['the breaker of Redis is open', 'redis', 'degraded', /breaker/, { redis: { state: () => 'tripped' } }],
    [
      'Redis is another server',
      'redis',
      'degraded',
      /other_server/,
      { caches: { ...healthy().caches, redisUse: () => 'other_server' } },
    ],
    ['there is no lease', 'bus', 'degraded', /^late: /, { caches: bus('late') }],
    ['members are of another version', 'bus', 'degraded', /2 instances/, { caches: bus(undefined, ['a', 'b']) }],
    ['the queue of Postgres fills', 'bus', 'degraded', /filling/, { notificationQueue: { isFilling: true } }],
    [
      'a breaker is open',
      'storage',
      'down',
      /storage \(no_answer\)/,
      {
        breakers: {
          list: () => [{ name: 'storage', dependency: 'storage', state: 'open', reason: 'no_answer' }] as never,
        },
      },
    ],
    [
      'one of two providers fails',
      'providers',
      'degraded',
      /provider\.fal/,
      {
        breakers: {
          list: () =>
            [
              { name: 'provider.fal', dependency: 'provider', state: 'open' },
              { name: 'provider.openai', dependency: 'provider', state: 'closed' },
            ] as never,
        },
      },
    ],
    ['mails cannot be sent', 'mail', 'down', /mail server/, { mail: { isConfigured: true, isWorking: () => false } }],
    [
      'the receiver of events fails',
      'siem',
      'degraded',
      /7 events/,
      { siem: { figures: { state: 'failing', sent: 0, failures: 1, lag: { events: 7, seconds: 1 } } } },
    ],
    [
      'decisions were dropped',
      'audit',
      'degraded',
      /^3 events/,
      { auditSink: { figures: { queued: 0, dropped: 3, written: 0 } } },
    ],
    [
      'the chain lags',
      'audit',
      'degraded',
      /90 s/,
      { chainer: { figures: { linked: 0, restarted: 0, lagMs: 90_000 } } },
    ],
    ['statements wait for a connection', 'pools', 'degraded', /read \(P95 \d+ ms\)/, { recorder: slow }],
    ['the event loop is late', 'event_loop', 'degraded', /P95 \d+ ms/, { recorder: slow }],
    ['threads are saturated', 'workers.hashing', 'degraded', /all 2 threads/, { collector: { workers: () => busy } }],
  ]
  test.each(cases)('say that %s', (_, component, state, detail, given) => {
    const finding = createComponents({ ...healthy(), ...given })[component]?.()
    expect(finding?.state).toBe(state as never)
    expect(finding?.detail).toMatch(detail)
  })
})
