import { expect, test } from 'bun:test'
import { createOriginMatcher, isOriginPattern } from '../../src/kit/origin.ts'

const accepted = [
  'https://app.example.com',
  'http://localhost:5173',
  'https://*.example.app',
  'http://*.localhost:3000',
  'capacitor://localhost',
  'ionic://localhost',
  'tauri://localhost',
  'chrome-extension://abcdefghijklmnopabcdefghijklmnop',
  'moz-extension://0a1b2c3d-0000-4000-8000-0a1b2c3d4e5f',
  'safari-web-extension://0A1B2C3D-0000-4000-8000-0A1B2C3D4E5F',
]
const refused = [
  '*',
  'null',
  'https://*',
  'https://*.com',
  'https://*.1.2.3.4',
  'https://*example.app',
  'https://a.*.example.app',
  'https://*.*.example.app',
  'https://*.Example.app',
  'https://*.example.app/',
  'https://*.example.app:443',
  'capacitor://*.localhost',
  '*://example.app',
  'https://example.app/',
  'https://example.app/path',
  'https://Example.app',
  'https://example.app:443',
  'example.app',
  'file://host',
  'ws://example.app',
  'data:text/html',
  'javascript://x',
  'capacitor://',
  'capacitor://localhost/',
  'Capacitor://localhost',
]

test('an origin is of the web, of an app or an extension, or a wildcard below a domain', () => {
  expect(accepted.filter((text) => !isOriginPattern(text))).toEqual([])
  expect(refused.filter(isOriginPattern)).toEqual([])
})

test('a wildcard matches every subdomain with the same scheme and port, and nothing else', () => {
  const matches = createOriginMatcher(['https://*.example.app', 'capacitor://localhost', 'http://*.localhost:3000'])
  for (const origin of [
    'https://a.example.app',
    'https://pr-12.web.example.app',
    'https://a_b.example.app',
    'capacitor://localhost',
    'http://x.localhost:3000',
  ]) {
    expect([origin, matches(origin)]).toEqual([origin, true])
  }
  for (const origin of [
    'https://example.app',
    'https://.example.app',
    'http://a.example.app',
    'https://a.example.app:8443',
    'https://a.example.app.evil.com',
    'https://evil.com/.example.app',
    'https://evil.com#.example.app',
    'https://evil.com?.example.app',
    'https://evil@.example.app',
    'https://a..example.app',
    'https://aexample.app',
    'https://*.example.app ',
    'https://A.example.app',
    'capacitor://localhost:1',
    'http://x.localhost',
    'null',
    '',
  ]) {
    expect([origin, matches(origin)]).toEqual([origin, false])
  }
})
