import { describe, expect, test } from 'bun:test'
import { createCanaries } from './canaries.ts'
import { runStorm } from './storm.ts'

describe('a canary', () => {
  const canaries = createCanaries()
  const [password, token] = [canaries.plant('password', 'a password'), canaries.plant('accessToken', 'a token')]
  const [, claims = '', signature = ''] = token.split('.')

  test('is found in text, in hexadecimal and by any part of it that is secret', () => {
    expect(canaries.leaksIn(`a line with ${password}`)).toEqual(['a password'])
    expect(canaries.leaksIn(`\\x${Buffer.from(password).toString('hex')}`)).toEqual(['a password'])
    expect(canaries.leaksIn(encodeURIComponent(password).toUpperCase())).toEqual(['a password'])
    expect(canaries.leaksIn(signature)).toEqual(['a token'])
    expect(canaries.leaksIn(claims)).toEqual(['a token (claims)'])
    expect(canaries.leaksIn('nothing')).toEqual([])
  })
})

// All of them, 10,000 on each runtime: bun test/canaries/main.ts
for (const runtime of ['bun', 'deno'] as const)
  test(`passwords, tokens and keys that clients send are written nowhere, on ${runtime}`, async () => {
    const { leaks, requests, statuses, events } = await runStorm(runtime, { least: 250, everyNth: 9 })
    expect(leaks).toEqual([])
    expect(requests).toBeGreaterThan(250)
    expect(statuses[500]).toBeUndefined()
    // A connection that the server ended without an answer.
    expect(statuses[0]).toBeUndefined()
    expect(events).toBeGreaterThan(5)
    expect(statuses[200]).toBeGreaterThan(5)
  }, 60_000)
