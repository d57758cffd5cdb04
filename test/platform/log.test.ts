import { describe, expect, test } from 'bun:test'
import { createLog, type Log } from '../../src/platform/log.ts'

const capture = (level: Parameters<typeof createLog>[0], write: (log: Log) => void) => {
  const lines: string[] = []
  write(createLog(level, { write: (line) => void lines.push(line) }))
  return lines
}
const entryOf = (write: (log: Log) => void) => JSON.parse(capture('debug', write)[0] ?? '')

test('an entry is one JSON object on one line, with level, time and message', () => {
  const lines = capture('debug', (log) => log.warn({ request_id: 'r1', text: 'two\nlines' }, 'it\nhappened'))
  expect(lines.length).toBe(1)
  expect(lines[0]?.trimEnd().includes('\n')).toBe(false)
  const { time, ...entry } = JSON.parse(lines[0] ?? '')
  expect(entry).toEqual({ level: 'warn', request_id: 'r1', text: 'two\nlines', message: 'it\nhappened' })
  expect(new Date(time).toISOString()).toBe(time)
})

test('an error is logged with its name, message, stack and cause', () => {
  const cause = Object.assign(new TypeError('the cause'), { code: '57P01' })
  const { error } = entryOf((log) => log.error({ error: new Error('the error', { cause }) }, 'x'))
  expect(error).toMatchObject({ name: 'Error', message: 'the error', stack: expect.stringContaining('log.test.ts') })
  expect(error.cause).toMatchObject({ name: 'TypeError', message: 'the cause', code: '57P01' })
})

test('rows and parameters of a database error are not logged', () => {
  const carried = { detail: 'Failing row contains (secret-row)', parameters: ['secret-row'], query: 'secret-row' }
  const error = Object.assign(new Error('violates', { cause: Object.assign(new Error('inner'), carried) }), carried)
  expect(capture('info', (log) => log.error({ error }, 'x')).join()).not.toContain('secret-row')
})

test('entries below the level are not logged', () => {
  const write = (log: Log) => {
    log.debug({}, 'debug')
    log.info({}, 'info')
    log.warn({}, 'warn')
    log.error({}, 'error')
  }
  const messages = (level: Parameters<typeof createLog>[0]) =>
    capture(level, write).map((line) => JSON.parse(line).message)
  expect(messages('debug')).toEqual(['debug', 'info', 'warn', 'error'])
  expect(messages('warn')).toEqual(['warn', 'error'])
  expect(messages('silent')).toEqual([])
})

describe('values under secret names', () => {
  const secret = 'hunter2-hunter2'

  test('are redacted at the top and up to two levels below, for every type of value', () => {
    for (const name of [
      'password',
      'current_password',
      'new_password',
      'password_hash',
      'access_token',
      'refresh_token',
      'authorization',
      'cookie',
      'secret',
      'share',
      'signature',
      'token',
      'email',
      'display_name',
    ]) {
      for (const fields of [
        { [name]: secret },
        { [name]: { value: secret } },
        { body: { [name]: secret } },
        { request: { headers: { [name]: [secret] } } },
        { items: [{ [name]: secret }] },
      ]) {
        const [line] = capture('debug', (log) => log.error(fields, 'x'))
        expect(line).not.toContain(secret)
        expect(line).toContain('[redacted]')
      }
    }
  })

  test('are redacted in the entry and stay in the logged object', () => {
    const body = { password: secret }
    capture('debug', (log) => log.error({ body }, 'x'))
    expect(body.password).toBe(secret)
  })

  test('are the only ones redacted', () => {
    const entry = entryOf((log) => log.info({ user_id: 'u1', body: { name: 'Lab' } }, 'x'))
    expect(entry).toMatchObject({ user_id: 'u1', body: { name: 'Lab' } })
  })
})
