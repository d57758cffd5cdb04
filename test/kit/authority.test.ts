import { describe, expect, test } from 'bun:test'
import { createHostCheck, pathOf } from '../../src/kit/authority.ts'

const valid = [
  'localhost',
  'x',
  'api.example.com',
  'API.Example.COM',
  'api_v1-2.internal',
  '127.0.0.1',
  'localhost:3000',
  'localhost:80',
  'localhost:',
  '[::1]',
  '[::1]:3000',
  '[2001:db8::ff]:65535',
]
const invalid = [
  '',
  ' ',
  '[',
  '[]',
  '[::1',
  '[zz::1]',
  ':3000',
  'a:b',
  'a:1:2',
  'a:65536',
  'a:123456',
  'a/b',
  'a/api/v1',
  'a?b',
  'a#b',
  'a\\b',
  'user@a',
  'a b',
  'a, b',
  'a,b',
  'a%2fb',
  'a%',
  'http://a',
  'é.example',
  'a\tb',
  '1.2.3.999',
  'a'.repeat(300),
]

describe('a Host header', () => {
  const isValid = createHostCheck()

  test('that is a name or an address with an optional port is accepted, as sent and as a URL parser writes it', () => {
    for (const host of valid) {
      expect([host, isValid(`http://${host}/health`, host)]).toEqual([host, true])
      expect([host, isValid(`${new URL(`http://${host}`).origin}/health`, host)]).toEqual([host, true])
    }
  })

  test('with any other character is refused with every URL that a runtime makes of it', () => {
    for (const host of invalid) {
      for (const url of [`http://${host}/health`, '/health', 'http://localhost/health']) {
        expect([host, url, isValid(url, host)]).toEqual([host, url, false])
      }
    }
  })

  test('is not needed where the URL names a valid authority, and a bare path is refused', () => {
    expect(isValid('http://localhost:3000/health', null)).toBe(true)
    expect(isValid('/health', null)).toBe(false)
    expect(isValid('*', null)).toBe(false)
  })

  test('gives way to the authority of a target that is a whole URL, which must be valid too', () => {
    expect(isValid('http://other.example/health', 'localhost')).toBe(true)
    for (const url of [
      'http://other.example',
      'http://other?/health',
      'http://a@other/health',
      'http://#/health',
      'https://other.example/health',
      'ftp://other.example/health',
      'health',
      '//other/health',
    ]) {
      expect([url, isValid(url, 'localhost')]).toEqual([url, false])
    }
  })

  test('is decided alike after a flood of other ones', () => {
    for (let index = 0; index < 2_000; index += 1) {
      expect(isValid(`http://h${index}/`, `h${index}`)).toBe(true)
    }
    for (const host of valid) expect(isValid(`http://${host}/`, host)).toBe(true)
    for (const host of invalid) expect(isValid(`http://${host}/`, host)).toBe(false)
  })
})

test('the path of a URL ends at its query', () => {
  expect(pathOf('http://a/')).toBe('/')
  expect(pathOf('http://a/b/c?d=/e')).toBe('/b/c')
  expect(pathOf('http://a/b?c?d')).toBe('/b')
})
