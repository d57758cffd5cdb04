import { describe, expect, test } from 'bun:test'
import type { SessionOrigin } from '../../src/access/policy/facts/session.ts'
import { type ClientContext, compare, requiredScore, type Signal, scoreOf } from '../../src/security-context/signals.ts'

const hourMs = 3_600_000
const nowMs = 100 * hourMs

const origin: SessionOrigin = {
  countries: ['DE'],
  network: 'home',
  browser: 'Firefox',
  platform: 'Windows',
  seenCountry: 'DE',
  seenAtMs: nowMs - hourMs,
}
const home: ClientContext = { country: 'DE', network: 'home', browser: 'Firefox', platform: 'Windows' }

const signalsOf = (own: Partial<SessionOrigin>, current: Partial<ClientContext>): Signal[] => {
  const session = { ...origin, ...own }
  return compare(session, { ...home, ...current }, (network) => network === session.network, nowMs)
}
const isRequired = (own: Partial<SessionOrigin>, current: Partial<ClientContext>) =>
  scoreOf(signalsOf(own, current)) >= requiredScore

describe('a request compared with its session', () => {
  test.each<[string, Partial<SessionOrigin>, Partial<ClientContext>, Signal[]]>([
    ['the same client', {}, {}, []],
    ['another network', {}, { network: 'train' }, ['network_changed']],
    ['another browser', {}, { browser: 'Chrome' }, ['browser_changed']],
    ['another platform', {}, { platform: 'Linux' }, ['platform_changed']],
    ['a neighbouring country', {}, { country: 'FR' }, ['country_changed']],
    ['a far country within an hour', {}, { country: 'BR' }, ['impossible_travel', 'country_changed']],
    ['a far country after a day', { seenAtMs: nowMs - 24 * hourMs }, { country: 'BR' }, ['country_changed']],
    ['the country of its person, who was elsewhere an hour ago', { seenCountry: 'BR' }, {}, ['impossible_travel']],
  ])('from %s has exactly these signals', (_, own, current, expected) => {
    expect(signalsOf(own, current)).toEqual(expected)
  })

  test.each<[string, Partial<SessionOrigin>, Partial<ClientContext>]>([
    ['a person at home', {}, {}],
    ['a phone between two networks', {}, { network: 'cell' }],
    ['a person who crosses a border', {}, { country: 'FR', network: 'hotel' }],
    ['a traveller after a flight', { seenAtMs: nowMs - 24 * hourMs }, { country: 'BR', network: 'hotel' }],
    ['a page that asks for the view of another platform', {}, { platform: 'Linux', network: 'cell' }],
    ['another browser and platform in the same network', {}, { platform: 'Linux', browser: 'Chrome' }],
  ])('need not authenticate again: %s', (_, own, current) => {
    expect(isRequired(own, current)).toBe(false)
  })

  test.each<[string, Partial<SessionOrigin>, Partial<ClientContext>]>([
    ['a token from a far country within an hour', {}, { country: 'BR' }],
    ['a token on another computer in another network', {}, { browser: 'Chrome', platform: 'Linux', network: 'other' }],
    ['a token in another browser in another country', {}, { country: 'FR', browser: 'Chrome' }],
    ['a token at the home of a traveller', { seenCountry: 'JP' }, {}],
  ])('has to authenticate again: %s', (_, own, current) => {
    expect(isRequired(own, current)).toBe(true)
  })

  test('has no signal where a value is missing on either side', () => {
    const unknown = { country: null, network: null, browser: null, platform: null }
    expect(signalsOf({}, unknown)).toEqual([])
    expect(
      signalsOf(
        { countries: [], network: null, browser: null, platform: null, seenCountry: null },
        { country: 'BR', network: 'other', browser: 'Chrome', platform: 'Linux' },
      ),
    ).toEqual([])
  })

  test('has no signal from any country in which its person has authenticated, however fast it changes', () => {
    const own = { countries: ['US', 'DE'], seenCountry: 'US', seenAtMs: nowMs }
    expect(signalsOf(own, { country: 'DE' })).toEqual([])
    expect(signalsOf(own, { country: 'US' })).toEqual([])
    // From a third one there is.
    expect(signalsOf({ ...own, seenCountry: 'JP' }, { country: 'DE' })).toEqual(['impossible_travel'])
  })

  test('has no impossible travel where the clock of the last instance was ahead, between neighbours', () => {
    expect(signalsOf({ seenAtMs: nowMs + 5_000 }, { country: 'PL' })).toEqual(['country_changed'])
  })
})
