import { expect, test } from 'bun:test'
import { readSiem } from '../../src/siem/settings.ts'

const read = (given: Record<string, string>) => {
  const [problems, notes]: [string[], string[]] = [[], []]
  return { settings: readSiem((name) => given[name], problems, notes), problems, notes }
}

test('a receiver is read from its URL', () => {
  const none = { authorization: undefined, caFile: undefined }
  const syslog = { kind: 'syslog', caFile: undefined }
  const cases: readonly (readonly [string, object])[] = [
    ['stdout:', { kind: 'stdout' }],
    ['https://siem.example.com/x?y=z', { kind: 'https', url: 'https://siem.example.com/x?y=z', ...none }],
    ['http://127.0.0.1:8080', { kind: 'https', url: 'http://127.0.0.1:8080', ...none }],
    ['syslog+tls://logs.example.com:6514', { ...syslog, host: 'logs.example.com', port: 6514, tls: true }],
    ['syslog+tcp://[::1]:514', { ...syslog, host: '::1', port: 514, tls: false }],
  ]
  for (const [SIEM_URL, settings] of cases)
    expect(read({ SIEM_URL })).toEqual({ settings, problems: [], notes: [] } as never)
  expect(read({})).toEqual({ settings: undefined, problems: [], notes: [] })
})

test('a receiver without encryption outside of this machine is noted', () => {
  for (const SIEM_URL of ['http://vector.internal:8080/', 'syslog+tcp://logs.internal:514']) {
    const { problems, notes } = read({ SIEM_URL })
    expect([problems, notes.length]).toEqual([[], 1])
  }
})

test('what is no receiver, or a setting that none uses, is a problem that does not repeat secrets', () => {
  const wrong: readonly Record<string, string>[] = [
    { SIEM_URL: 'ftp://logs.example.com' },
    { SIEM_URL: 'logs.example.com' },
    { SIEM_URL: 'https://user:hush-hush@logs.example.com' },
    { SIEM_URL: 'https://hush-hush@logs.example.com' },
    { SIEM_URL: 'https://logs.example.com/#x' },
    { SIEM_URL: 'syslog+tls://logs.example.com' },
    { SIEM_URL: 'syslog+tls://logs.example.com:6514/path' },
    { SIEM_URL: 'syslog+udp://logs.example.com:514' },
    { SIEM_URL: 'stdout:', SIEM_AUTHORIZATION: 'Bearer hush-hush' },
    { SIEM_URL: 'https://logs.example.com', SIEM_AUTHORIZATION: 'Bearer hush-hush\nx: y' },
    { SIEM_URL: 'http://127.0.0.1', SIEM_CA_FILE: '/ca.pem' },
    { SIEM_AUTHORIZATION: 'Bearer hush-hush' },
    { SIEM_CA_FILE: '/ca.pem' },
  ]
  for (const given of wrong) {
    const { problems } = read(given)
    expect([given, problems.length]).toEqual([given, 1])
    expect(problems.join()).not.toContain('hush-hush')
  }
})
