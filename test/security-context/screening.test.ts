import { beforeEach, describe, expect, test } from 'bun:test'
import type { SessionOrigin } from '../../src/access/policy/facts/session.ts'
import type { SecurityContextMode } from '../../src/config.ts'
import { Fault } from '../../src/fault.ts'
import { manualClock } from '../../src/kit/clock.ts'
import { createScreening, type SessionOf } from '../../src/security-context/screening.ts'
import type { ClientContext } from '../../src/security-context/signals.ts'
import { idOf } from '../access/random.ts'

const hourMs = 3_600_000
const userId = idOf('user', 1)
const sessionId = idOf('session', 1)

/** Where the addresses of these tests are. */
const places: Readonly<Record<string, string>> = { '192.0.2.1': 'DE', '198.51.100.1': 'FR', '203.0.113.1': 'BR' }
const firefox = 'Firefox on Windows'

let clock: ReturnType<typeof manualClock>
let lookUps: number
let events: Record<string, unknown>[]
beforeEach(() => {
  clock = manualClock(10 * hourMs)
  lookUps = 0
  events = []
})

const create = (mode: SecurityContextMode, rolloutPercent = 100) =>
  createScreening({
    mode,
    rolloutPercent,
    clock,
    record: (_, event, fields) => void events.push({ event, ...fields }),
    contexts: {
      countryOf: (address) => places[address] ?? null,
      countriesAsOf: new Date(0),
      of: ({ address, userAgent }): ClientContext => {
        lookUps += 1
        const [browser = null, platform = null] = userAgent === '' ? [] : userAgent.split(' on ')
        return { country: places[address] ?? null, network: address, browser, platform }
      },
      openedFrom: () => ({ country: null, network_hash: null, browser: null, platform: null }),
      isNetworkOf: (_, { network: own }, network) => own === network,
    },
  })

const originOf = (changes: Partial<SessionOrigin> = {}): SessionOrigin => ({
  countries: ['DE'],
  network: '192.0.2.1',
  browser: 'Firefox',
  platform: 'Windows',
  seenCountry: 'DE',
  seenAtMs: clock.now(),
  ...changes,
})
const sessionOf = (origin: SessionOrigin | undefined = originOf(), user = userId): SessionOf => ({
  userId: user,
  sessionId,
  origin,
})

const requestFrom = (address: string, userAgent = firefox) => ({
  requestId: 'r',
  request: new Request('http://localhost/', { headers: { 'user-agent': userAgent } }),
  addressOf: () => address,
})

const refusal = (run: () => unknown): Fault | undefined => {
  try {
    run()
    return undefined
  } catch (error) {
    if (error instanceof Fault) return error
    throw error
  }
}

describe('a client that was seen with its session before', () => {
  test('costs no look-up, no comparison and no promise', () => {
    const { screen } = create('enforce')
    const session = sessionOf()
    const first = screen(session, requestFrom('192.0.2.1'), false)
    expect(first).toEqual({ verdict: 'abstain', reason: 'context.unchanged' })
    expect(screen(session, requestFrom('192.0.2.1'), false)).toBe(first)
    expect(lookUps).toBe(1)
  })

  test('is remembered beside three others of that session, and is compared again once a fifth was seen', () => {
    const { screen } = create('monitor')
    const session = sessionOf()
    const from = (count: number) => screen(session, requestFrom(`192.0.2.${count}`), false)
    for (const count of [1, 2, 3, 4, 1, 2, 3, 4]) from(count)
    expect(lookUps).toBe(4)
    from(5)
    expect(lookUps).toBe(5)
    from(4)
    from(5)
    expect(lookUps).toBe(5)
    from(1)
    expect(lookUps).toBe(6)
  })

  test('is compared again once the fact of the session was read again', () => {
    const { screen } = create('monitor')
    screen(sessionOf(), requestFrom('192.0.2.1'), false)
    screen(sessionOf(), requestFrom('192.0.2.1'), false)
    expect(lookUps).toBe(2)
  })

  test('is another client with another User-Agent', () => {
    const { screen } = create('monitor')
    const session = sessionOf()
    screen(session, requestFrom('192.0.2.1'), false)
    expect(screen(session, requestFrom('192.0.2.1', 'Chrome on Windows'), false).reason).toBe('context.browser_changed')
  })
})

describe('a token that is used in a far country', () => {
  test('is refused with the code that says how to go on, each time', () => {
    const { screen, counts } = create('enforce')
    const session = sessionOf()
    for (let time = 1; time <= 3; time += 1) {
      const fault = refusal(() => screen(session, requestFrom('203.0.113.1'), false))
      expect(fault?.code).toBe('session.reauthentication_required')
      expect(fault?.extensions).toEqual({ max_age_seconds: 0, reason: 'context' })
    }
    expect(counts).toEqual({
      assessments: 1,
      refusals: 3,
      signals: {
        impossible_travel: 1,
        country_changed: 1,
        platform_changed: 0,
        browser_changed: 0,
        network_changed: 1,
      },
    })
    // At home it goes on.
    expect(screen(session, requestFrom('192.0.2.1'), false).reason).toBe('context.unchanged')
  })

  test('is admitted on a route that is a way out', () => {
    const { screen, counts } = create('enforce')
    expect(screen(sessionOf(), requestFrom('203.0.113.1'), true).reason).toBe('context.impossible_travel')
    expect(counts.refusals).toBe(0)
  })

  test('is reported once an hour, without a secret, whether or not it is refused', () => {
    for (const mode of ['monitor', 'enforce'] as const) {
      events = []
      const { screen } = create(mode)
      for (let time = 1; time <= 3; time += 1) refusal(() => screen(sessionOf(), requestFrom('203.0.113.1'), false))
      expect(events).toEqual([
        {
          event: 'session.context_changed',
          address: '203.0.113.1',
          user_id: userId,
          session_id: sessionId,
          country: 'BR',
          session_country: 'DE',
          score: 110,
          signals: ['impossible_travel', 'country_changed', 'network_changed'],
          refused: mode === 'enforce',
        },
      ])
      clock.advance(hourMs + 1)
      refusal(() => screen(sessionOf(), requestFrom('203.0.113.1'), false))
      expect(events.length).toBe(2)
    }
  })

  test('is only found by the mode monitor, and not even compared by the mode off', () => {
    expect(create('monitor').screen(sessionOf(), requestFrom('203.0.113.1'), false)).toEqual({
      verdict: 'abstain',
      reason: 'context.impossible_travel',
    })
    lookUps = 0
    const addressOf = () => {
      throw new Error('the address was read')
    }
    expect(create('off').screen(sessionOf(), { ...requestFrom(''), addressOf }, false)).toEqual({
      verdict: 'skipped',
      reason: 'context.off',
    })
    expect(lookUps).toBe(0)
  })

  test('is admitted once the person can have travelled there', () => {
    const { screen } = create('enforce')
    const origin = originOf()
    expect(refusal(() => screen(sessionOf(origin), requestFrom('203.0.113.1'), false))).toBeDefined()
    clock.advance(12 * hourMs)
    // As the fact is read again.
    expect(screen(sessionOf({ ...origin }), requestFrom('203.0.113.1'), false).reason).toBe('context.country_changed')
  })
})

describe('a rollout', () => {
  const people = Array.from({ length: 1_000 }, (_, at) => idOf('user', at))
  const refusedOf = (rolloutPercent: number) => {
    const { screen } = create('enforce', rolloutPercent)
    return people.filter((user) =>
      refusal(() => screen(sessionOf(originOf(), user), requestFrom('203.0.113.1'), false)),
    )
  }

  test('refuses about its percentage of the users, none at 0 and all at 100', () => {
    expect(refusedOf(0)).toEqual([])
    expect(refusedOf(100)).toEqual(people)
    const some = refusedOf(30).length
    expect(some).toBeGreaterThan(250)
    expect(some).toBeLessThan(350)
  })

  test('keeps those whom it has reached when it grows', () => {
    const before = refusedOf(10)
    const after = new Set(refusedOf(40))
    expect(before.filter((user) => !after.has(user))).toEqual([])
  })
})

describe('a session about which nothing is known', () => {
  test('is not compared, not even by the mode enforce', () => {
    const { screen } = create('enforce')
    const session = { userId, sessionId, origin: undefined }
    expect(screen(session, requestFrom('203.0.113.1'), false)).toEqual({
      verdict: 'abstain',
      reason: 'context.not_known',
    })
    expect(lookUps).toBe(0)
  })
})

describe('people who are not locked out', () => {
  test('an office behind one address: sessions do not count against each other', () => {
    const { screen } = create('enforce')
    for (let person = 0; person < 500; person += 1) {
      const session = { userId: idOf('user', person), sessionId: idOf('session', person), origin: originOf() }
      expect(screen(session, requestFrom('192.0.2.1'), false).reason).toBe('context.unchanged')
    }
  })

  test('a phone that changes its network every minute, at home and across a border', () => {
    const { screen } = create('enforce')
    const session = sessionOf()
    for (let minute = 0; minute < 300; minute += 1) {
      clock.advance(60_000)
      const address = ['192.0.2.1', '192.0.2.77', '198.51.100.1', '100.64.3.2'][minute % 4] as string
      expect(refusal(() => screen(session, requestFrom(address), false))).toBeUndefined()
    }
  })
})
