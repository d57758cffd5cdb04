import { expect, test } from 'bun:test'
import { formatSetCookie, valuesOfCookie } from '../../src/kit/cookie.ts'

const name = '__Host-a'

test('a cookie is found by its whole name, wherever it stands in the field', () => {
  for (const field of [
    '__Host-a=1',
    'x=2; __Host-a=1',
    '__Host-a=1; x=2',
    'x=2;__Host-a=1;y=3',
    'x=2; \t__Host-a=1 ; y=3',
  ]) {
    expect([field, valuesOfCookie(field, name)]).toEqual([field, ['1']])
  }
  for (const field of [
    '',
    'a=1',
    'x__Host-a=1',
    '__Host-ab=1',
    '__host-a=1',
    '__Host-a',
    'x=__Host-a=1',
    'x=2 __Host-a=1',
  ]) {
    expect([field, valuesOfCookie(field, name)]).toEqual([field, []])
  }
})

test('a value that another cookie holds behind a comma is no cookie', () => {
  expect(valuesOfCookie('x=2,__Host-a=evil', name)).toEqual([])
  expect(valuesOfCookie('x=2, __Host-a=evil; __Host-a=1', name)).toEqual(['1'])
})

test('each of several cookies of one name is found, and a value may contain the name again', () => {
  expect(valuesOfCookie('__Host-a=1; __Host-a=2; __Host-a=', name)).toEqual(['1', '2', ''])
  expect(valuesOfCookie('__Host-a=__Host-a=1', name)).toEqual(['__Host-a=1'])
})

test('a field of 64 KiB that repeats the name is read in one pass', () => {
  expect(valuesOfCookie('__Host-a='.repeat(7_000), name)).toHaveLength(1)
})

test('a cookie is set for the whole host, over TLS only and out of reach of scripts', () => {
  expect(formatSetCookie(name, 'v', { sameSite: 'lax', maxAgeSeconds: 60 })).toBe(
    '__Host-a=v; Path=/; Max-Age=60; HttpOnly; Secure; SameSite=Lax',
  )
  expect(formatSetCookie(name, '', { sameSite: 'none', maxAgeSeconds: 0 })).toBe(
    '__Host-a=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=None',
  )
})
