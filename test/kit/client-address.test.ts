import { describe, expect, test } from 'bun:test'
import fc from 'fast-check'
import { canonicalAddress, clientAddress, isAddress, toTrustedProxies } from '../../src/kit/client-address.ts'

/** Not addresses, though built from the characters of addresses. */
const none = [
  'face',
  '...',
  ':',
  '999.1.1.1',
  '256.0.0.1',
  '1.2.3.04',
  '::ffff:999.1.1.1',
  '1::2::3',
  '1:2:3',
  'fe80::1%en-0',
]
const proxies = toTrustedProxies(['10.0.0.1', '10.0.0.2', '2001:db8::1'])

describe('a direct client that is not a trusted proxy', () => {
  test('keeps its socket address, regardless of X-Forwarded-For', () => {
    for (const forwardedFor of [null, '', '6.6.6.6', '6.6.6.6, 10.0.0.1', '10.0.0.1', '::1']) {
      expect(clientAddress('203.0.113.9', forwardedFor, proxies)).toBe('203.0.113.9')
      expect(clientAddress('203.0.113.9', forwardedFor, toTrustedProxies([]))).toBe('203.0.113.9')
    }
  })
})

describe('behind a trusted proxy', () => {
  test('the client is the rightmost address that is not a trusted proxy', () => {
    for (const [forwardedFor, client] of [
      ['203.0.113.9', '203.0.113.9'],
      ['203.0.113.9, 10.0.0.2', '203.0.113.9'],
      ['203.0.113.9,10.0.0.2 , 10.0.0.1', '203.0.113.9'],
      ['2001:db8::9', '2001:db8::9'],
      ['2001:DB8::9, 2001:DB8::1', '2001:db8::9'],
      ['::ffff:203.0.113.9', '203.0.113.9'],
    ] as const) {
      expect(clientAddress('10.0.0.1', forwardedFor, proxies)).toBe(client)
    }
  })

  test('addresses that the client put before its own are ignored', () => {
    expect(clientAddress('10.0.0.1', '6.6.6.6, 203.0.113.9', proxies)).toBe('203.0.113.9')
    expect(clientAddress('10.0.0.1', '6.6.6.6, 10.0.0.2, 203.0.113.9, 10.0.0.2', proxies)).toBe('203.0.113.9')
    expect(clientAddress('10.0.0.1', '6.6.6.6,,203.0.113.9', proxies)).toBe('203.0.113.9')
  })

  test('a malformed hop makes the proxy the client; addresses before it are ignored', () => {
    for (const unusable of ['unknown', '_hidden', '', '203.0.113.9.evil.example', '1.2.3', ...none]) {
      expect(clientAddress('10.0.0.1', `6.6.6.6, ${unusable}`, proxies)).toBe('10.0.0.1')
      expect(clientAddress('10.0.0.1', `6.6.6.6, ${unusable}, 10.0.0.2`, proxies)).toBe('10.0.0.1')
    }
  })

  test('ports are stripped from addresses', () => {
    expect(clientAddress('10.0.0.1', '203.0.113.9:4711', proxies)).toBe('203.0.113.9')
    expect(clientAddress('10.0.0.1', '[2001:db8::9]:4711', proxies)).toBe('2001:db8::9')
  })

  test('a proxy is recognized by its IPv4-mapped address', () => {
    for (const peer of ['::ffff:10.0.0.1', '::FFFF:10.0.0.1']) {
      expect(clientAddress(peer, '203.0.113.9', proxies)).toBe('203.0.113.9')
    }
  })

  test('a proxy is recognized in every spelling of its address', () => {
    for (const proxy of ['2001:db8::1', '2001:0db8::1', '2001:DB8:0:0:0:0:0:1', '[2001:0db8:0::1]:443']) {
      expect(clientAddress(proxy, '203.0.113.9', proxies)).toBe('203.0.113.9')
      expect(clientAddress('10.0.0.1', `203.0.113.9, ${proxy}`, proxies)).toBe('203.0.113.9')
    }
  })

  test('without a usable header the proxy is the client', () => {
    for (const forwardedFor of [null, '', ',', '10.0.0.2', 'unknown', 'javascript:1', '1'.repeat(1_000)]) {
      expect(clientAddress('10.0.0.1', forwardedFor, proxies)).toBe('10.0.0.1')
    }
  })
})

test('an IPv4-mapped address becomes IPv4', () => {
  expect(clientAddress('::ffff:192.0.2.1', null, toTrustedProxies([]))).toBe('192.0.2.1')
  expect(clientAddress('2001:DB8::A', null, toTrustedProxies([]))).toBe('2001:db8::a')
})

test('the canonical text of an address is unique and canonicalizes to itself', () => {
  for (const [spelling, address] of [
    ['203.0.113.9', '203.0.113.9'],
    ['::ffff:cb00:7109', '203.0.113.9'],
    ['0:0:0:0:0:FFFF:203.0.113.9', '203.0.113.9'],
    ['0:0:0:0:0:0:0:1', '::1'],
    ['::', '::'],
    ['2001:0db8::0001', '2001:db8::1'],
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['64:ff9b::192.0.2.1', '64:ff9b::c000:201'],
  ] as const) {
    expect(isAddress(spelling)).toBe(true)
    expect(canonicalAddress(spelling)).toBe(address)
    expect(canonicalAddress(address)).toBe(address)
  }
  for (const text of none) {
    expect(isAddress(text)).toBe(false)
    expect(canonicalAddress(text)).toBe(text)
  }
})

test('every text that node:net accepts as an address has a canonical form', () => {
  const group = fc.integer({ min: 0, max: 0xffff }).map((value) => value.toString(16))
  const text = fc.oneof(
    fc.ipV4(),
    fc.ipV6(),
    fc
      .array(fc.oneof(group, fc.constantFrom('', '0', '0000', '1.2.3.4')), { maxLength: 9 })
      .map((groups) => groups.join(':')),
  )
  fc.assert(
    fc.property(text, (text) => {
      const address = canonicalAddress(text)
      if (isAddress(text)) expect(isAddress(address)).toBe(true)
      expect(canonicalAddress(address)).toBe(address)
    }),
    { numRuns: 2_000 },
  )
})
