import { describe, expect, test } from 'bun:test'
import { countries } from '../../src/security-context/countries.ts'
import { isImpossibleTravel } from '../../src/security-context/travel.ts'

const minuteMs = 60_000
const hourMs = 60 * minuteMs

describe('travel between two countries', () => {
  test('is never impossible between neighbours, in no time at all', () => {
    for (const [code, { neighbours }] of countries)
      for (const neighbour of neighbours) expect(isImpossibleTravel(code, neighbour, 0)).toBe(false)
    expect(isImpossibleTravel('US', 'CA', 0)).toBe(false)
    expect(isImpossibleTravel('RU', 'CN', 0)).toBe(false)
  })

  test('is never impossible across a narrow sea, or between countries near each other', () => {
    for (const [one, other] of [
      ['GB', 'FR'],
      ['GB', 'NL'],
      ['NL', 'CH'],
      ['DK', 'SE'],
      ['ES', 'MA'],
      ['SG', 'ID'],
      ['JP', 'KR'],
    ] as const)
      expect({ one, other, found: isImpossibleTravel(one, other, 0) }).toEqual({ one, other, found: false })
  })

  test('is possible by a short flight between two countries that are not round', () => {
    expect(isImpossibleTravel('US', 'CU', hourMs)).toBe(false)
    expect(isImpossibleTravel('NO', 'PL', hourMs)).toBe(false)
  })

  test('is impossible between continents within the hour, and possible after a flight', () => {
    for (const [one, other, flightHours] of [
      ['DE', 'BR', 12],
      ['DE', 'JP', 12],
      ['US', 'IN', 16],
      ['GB', 'AU', 21],
      ['FR', 'ZA', 11],
    ] as const) {
      expect(isImpossibleTravel(one, other, hourMs)).toBe(true)
      expect(isImpossibleTravel(other, one, hourMs)).toBe(true)
      expect(isImpossibleTravel(one, other, flightHours * hourMs)).toBe(false)
    }
  })

  test('is never impossible for a country that is not known', () => {
    for (const code of ['ZZ', 'EU', 'AP', '', 'xx', '__proto__']) {
      expect(isImpossibleTravel('DE', code, 0)).toBe(false)
      expect(isImpossibleTravel(code, 'DE', 0)).toBe(false)
    }
  })

  test('is impossible where the time is negative, as where it is zero', () => {
    expect(isImpossibleTravel('DE', 'BR', -24 * hourMs)).toBe(true)
  })
})

describe('the table of countries', () => {
  test('names neighbours in both directions, and only countries that it has', () => {
    for (const [code, { neighbours }] of countries)
      for (const neighbour of neighbours) expect(countries.get(neighbour)?.neighbours).toContain(code)
  })

  test('has every country in which many people live, at its place', () => {
    expect(countries.size).toBeGreaterThan(190)
    for (const [code, latitude, longitude] of [
      ['DE', 51, 10],
      ['FR', 47, 2],
      ['NO', 64, 14],
      ['BR', -11, -53],
      ['NZ', -42, 172],
      ['IN', 23, 80],
      ['SG', 1, 104],
    ] as const) {
      const found = countries.get(code)
      expect(Math.abs((found?.latitude ?? 99) - latitude)).toBeLessThan(4)
      expect(Math.abs((found?.longitude ?? 999) - longitude)).toBeLessThan(5)
    }
  })
})
