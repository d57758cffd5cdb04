import { readFile } from 'node:fs/promises'
import { type CountryResponse, Reader, type Response } from 'mmdb-lib'
import { canonicalAddress, isAddress } from '../kit/client-address.ts'

/**
 * Where addresses are, by databases in the MaxMind format (mmdb). Each process reads a file once and keeps it in memory.
 *
 * Guarantee: null, and never a wrong answer, for text that is no address and for an address that the database does not know, such
 * as a private one. An IPv4 address has one answer in all its spellings.
 */
export type Geoip = {
  /** Two capital letters (ISO 3166-1); null where it is not known. */
  countryOf(address: string): string | null
  /** The number of the autonomous system; null where it is not known, or there is no such database. */
  systemOf(address: string): number | null
  /** When the database of countries was made. */
  readonly builtAt: Date
}

/** A file that cannot be used. The message is one line, and names the variable. */
export class GeoipRefused extends Error {
  override readonly name = 'GeoipRefused'
}

/** The file on npm that knows IPv4 and IPv6. Data of the Number Resource Organization (nro.net), CC BY 4.0. */
const bundled = '@ip-location-db/geo-whois-asn-country-mmdb/geo-whois-asn-country.mmdb'

type Variable = 'GEOIP_COUNTRY_DB' | 'GEOIP_ASN_DB'

const reasonOf = (error: unknown): string => {
  const { code, message } = error as { code?: string; message?: string }
  if (code === 'ENOENT') return 'there is no such file'
  if (code === 'EACCES' || code === 'EPERM') return 'permission denied'
  return message?.split('\n')[0] ?? 'it cannot be read'
}

const open = async <T extends Response>(variable: Variable, file: string | URL): Promise<Reader<T>> => {
  const refused = (reason: string) =>
    new GeoipRefused(`${variable} names ${file}, which cannot be used: ${reason}. Name a database in the mmdb format.`)
  const bytes = await readFile(file).catch((error: unknown) => {
    throw refused(reasonOf(error))
  })
  let reader: Reader<T>
  try {
    reader = new Reader<T>(bytes)
  } catch {
    throw refused('it is not in the mmdb format')
  }
  // Its tree has the first bits of IPv4 where those of IPv6 are looked up: any IPv6 address would get the country of another one.
  if (reader.metadata.ipVersion !== 6)
    throw refused('it knows IPv4 alone, and would give IPv6 addresses wrong countries')
  return reader
}

/** The fields by which databases of several makers name a country. */
type CountryRecord = {
  readonly country_code?: unknown
  readonly country?: unknown
}

const countryIn = (record: unknown): string | null => {
  const { country_code, country } = (record ?? {}) as CountryRecord
  const nested =
    typeof country === 'object' && country !== null ? (country as { iso_code?: unknown }).iso_code : country
  const code = country_code ?? nested
  return typeof code === 'string' && /^[A-Z]{2}$/.test(code) ? code : null
}

/** The fields by which databases of several makers name an autonomous system. */
const systemIn = (record: unknown): number | null => {
  const { autonomous_system_number, asn } = (record ?? {}) as { autonomous_system_number?: unknown; asn?: unknown }
  const given = autonomous_system_number ?? asn
  const number = typeof given === 'string' ? Number(given.replace(/^AS/, '')) : given
  return typeof number === 'number' && Number.isInteger(number) && number > 0 ? number : null
}

/**
 * Opens the databases. Without `countryFile` it is the one that is installed with Velro; without `systemFile` there are no
 * autonomous systems. Throws `GeoipRefused`.
 */
export const openGeoip = async ({
  countryFile,
  systemFile,
}: {
  countryFile?: string | undefined
  systemFile?: string | undefined
}): Promise<Geoip> => {
  const countries = await open<CountryResponse>(
    'GEOIP_COUNTRY_DB',
    countryFile ?? new URL(import.meta.resolve(bundled)),
  )
  const systems = systemFile === undefined ? undefined : await open('GEOIP_ASN_DB', systemFile)
  /** The reader answers any text, also one that is no address; and `::ffff:192.0.2.1` is not where 192.0.2.1 is. */
  const find = (reader: Reader<Response>, address: string): unknown => {
    const canonical = canonicalAddress(address)
    return isAddress(canonical) ? reader.get(canonical) : null
  }
  return {
    countryOf: (address) => countryIn(find(countries, address)),
    systemOf: (address) => (systems === undefined ? null : systemIn(find(systems, address))),
    builtAt: countries.metadata.buildEpoch,
  }
}
