import { afterAll, beforeEach, expect, test } from 'bun:test'
import { createHash } from 'node:crypto'
import { systemClock } from '../../src/kit/clock.ts'
import { createDeadlines } from '../../src/kit/deadline.ts'
import { createBreachedPasswords } from '../../src/platform/breached-passwords.ts'
import { createLog } from '../../src/platform/log.ts'

/** A server of the range API, as https://haveibeenpwned.com/API/v3#PwnedPasswords describes it. */
let asked: { path: string; padding: string | null }[] = []
let answer: (suffix: string) => Response | Promise<Response> = () => new Response('')
const server = Bun.serve({
  port: 0,
  hostname: '127.0.0.1',
  fetch: (request) => {
    const { pathname } = new URL(request.url)
    asked.push({ path: pathname, padding: request.headers.get('add-padding') })
    return answer(pathname)
  },
})
afterAll(() => server.stop(true))

const logged: string[] = []
const log = createLog('info', { write: (line: string) => void logged.push(line) })
const url = `http://127.0.0.1:${server.port}/range`
const client = () => createBreachedPasswords({ url, log })
const deadline = () => createDeadlines(systemClock)(10_000)
const hashOf = (password: string) => createHash('sha1').update(password).digest('hex').toUpperCase()

beforeEach(() => {
  asked = []
  logged.length = 0
})

test('the service gets five characters of the hash and is asked for padding', async () => {
  const password = 'correct horse battery'
  const hash = hashOf(password)
  answer = () => new Response(`0018A45C4D1DEF81644B54AB7F969B88D65:3\r\n${hash.slice(5)}:12\r\n`)
  expect(await client().has(password, deadline())).toBe(true)
  expect(asked).toEqual([{ path: `/range/${hash.slice(0, 5)}`, padding: 'true' }])
})

test('a password is not breached where only others, or padding with the count 0, are listed', async () => {
  const password = 'correct horse battery'
  answer = () => new Response(`0018A45C4D1DEF81644B54AB7F969B88D65:3\r\n${hashOf(password).slice(5)}:0\r\n`)
  expect(await client().has(password, deadline())).toBe(false)
})

test('an answer that is not usable leaves it open: an error, a redirect, one that is too large, one that is too slow', async () => {
  const answers: (() => Response | Promise<Response>)[] = [
    () => new Response('', { status: 503 }),
    () => Response.redirect('http://127.0.0.1:1/elsewhere'),
    () => new Response('x'.repeat(2_000_000)),
    () => new Promise<Response>(() => {}),
  ]
  for (const each of answers) {
    answer = each
    expect(await client().has('correct horse battery', deadline())).toBeUndefined()
  }
  expect(logged).toHaveLength(answers.length)
  expect(logged.join('')).not.toContain(hashOf('correct horse battery').slice(0, 5))
})

test('after five failures in a row the service is not asked for a while', async () => {
  answer = () => new Response('', { status: 500 })
  const one = client()
  for (let attempt = 0; attempt < 8; attempt += 1) expect(await one.has('some password', deadline())).toBeUndefined()
  expect(asked).toHaveLength(5)
})
