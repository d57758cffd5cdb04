import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type CountryResponse, Reader } from 'mmdb-lib'
import { type Geoip, GeoipRefused, openGeoip } from '../../src/platform/geoip.ts'
import { mmdb } from '../harness/mmdb.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'velro-geoip-'))
})
afterAll(() => rm(folder, { recursive: true }))

const write = async (name: string, bytes: Uint8Array): Promise<string> => {
  const file = join(folder, name)
  await writeFile(file, bytes)
  return file
}

describe('the installed database of countries', () => {
  let geoip: Geoip
  beforeAll(async () => {
    geoip = await openGeoip({})
  })

  test('knows where IPv4 and IPv6 addresses are', () => {
    // Deutsche Telekom, Orange, NTT: ranges that have been theirs for decades.
    expect(geoip.countryOf('80.128.0.1')).toBe('DE')
    expect(geoip.countryOf('90.0.0.1')).toBe('FR')
    expect(geoip.countryOf('2003::1')).toBe('DE')
    expect(geoip.countryOf('2a01:c000::1')).toBe('FR')
  })

  test('has one answer for an IPv4 address in all its spellings', () => {
    for (const spelling of [
      '80.128.0.1',
      '::ffff:80.128.0.1',
      '::FFFF:80.128.0.1',
      '::ffff:5080:1',
      '0:0:0:0:0:ffff:5080:1',
    ])
      expect({ spelling, country: geoip.countryOf(spelling) }).toEqual({ spelling, country: 'DE' })
  })

  test('answers null for text that is no address, where its reader would name a country', () => {
    for (const text of [
      '',
      'unknown',
      '80.128.0',
      '80.128.0.1.1',
      '999.1.1.1',
      '0x50.128.0.1',
      '2003',
      'fe80::1%eth0',
      '-',
      '::g',
    ])
      expect({ text, country: geoip.countryOf(text) }).toEqual({ text, country: null })
  })

  test('answers null for private, reserved and translated addresses', () => {
    for (const address of [
      '10.1.2.3',
      '127.0.0.1',
      '100.64.0.1',
      '192.0.2.1',
      '::1',
      'fd00::1',
      'fe80::1',
      '64:ff9b::5080:1',
    ])
      expect({ address, country: geoip.countryOf(address) }).toEqual({ address, country: null })
  })

  test('knows no autonomous systems', () => {
    expect(geoip.systemOf('80.128.0.1')).toBeNull()
  })
})

describe('a database of one’s own', () => {
  test('names countries in the fields of each maker', async () => {
    const countryFile = await write(
      'countries.mmdb',
      mmdb({
        '192.0.2.0/24': { country_code: 'DE' },
        '198.51.100.0/24': { country: { iso_code: 'FR' } },
        '203.0.113.0/24': { country: 'BR' },
        '2001:db8::/32': { country_code: 'JP' },
        '10.0.0.0/8': { country_code: 'not a code' },
        '172.16.0.0/12': { country: {} },
      }),
    )
    const geoip = await openGeoip({ countryFile })
    const addresses = ['192.0.2.1', '198.51.100.1', '203.0.113.1', '2001:db8::1', '10.0.0.1', '172.16.0.1', '1.1.1.1']
    expect(addresses.map(geoip.countryOf)).toEqual(['DE', 'FR', 'BR', 'JP', null, null, null])
    expect(geoip.countryOf('::ffff:192.0.2.1')).toBe('DE')
  })

  test('names autonomous systems', async () => {
    const systemFile = await write(
      'systems.mmdb',
      mmdb({ '192.0.2.0/24': { autonomous_system_number: 64_500 }, '198.51.100.0/24': { asn: 'AS64501' } }),
    )
    const geoip = await openGeoip({ systemFile })
    expect(['192.0.2.1', '198.51.100.1', '203.0.113.1', 'text'].map(geoip.systemOf)).toEqual([
      64_500,
      64_501,
      null,
      null,
    ])
  })

  test('that knows IPv4 alone is refused, because it would answer IPv6 addresses with wrong countries', async () => {
    const installed = '@ip-location-db/geo-whois-asn-country-mmdb/geo-whois-asn-country-ipv4.mmdb'
    const countryFile = fileURLToPath(import.meta.resolve(installed))
    // A network of Orange in France.
    const reader = new Reader<{ country_code: string } & CountryResponse>(await readFile(countryFile))
    expect(reader.get('2a01:c000::1')?.country_code).toBe('CN')
    const refused = openGeoip({ countryFile })
    expect(refused).rejects.toThrow(GeoipRefused)
    expect(refused).rejects.toThrow(/^GEOIP_COUNTRY_DB names .*ipv4[.]mmdb.*IPv4 alone/)
    expect(openGeoip({ systemFile: countryFile })).rejects.toThrow(/^GEOIP_ASN_DB names/)
  })

  test('that is missing, empty or of another format is refused in one line that names the variable', async () => {
    const files = {
      missing: join(folder, 'missing.mmdb'),
      empty: await write('empty.mmdb', new Uint8Array()),
      text: await write('text.mmdb', new TextEncoder().encode('network,country\n192.0.2.0/24,DE\n')),
      folder,
    }
    for (const countryFile of Object.values(files)) {
      const error: Error = await openGeoip({ countryFile }).then(
        () => new Error('was opened'),
        (reason) => reason,
      )
      expect(error).toBeInstanceOf(GeoipRefused)
      expect(error.message).toStartWith(`GEOIP_COUNTRY_DB names ${countryFile}, which cannot be used: `)
      expect(error.message).not.toContain('\n')
    }
  })
})
