import { decodeEntry, encodeEntry, parseEntry } from '../../../src/access/cache/redis-cache.ts'
import { createSecrets } from '../../../src/platform/secrets.ts'
import type { Scenario } from './scenario.ts'

const rounds = 9
const reads = 100_000
const id = '0190a6a0-0000-7000-8000-000000000001'
const name = `velro:3:abcdef:0123456789abcdef:session:${id}`
const entry = {
  at: Date.now(),
  fact: { userId: id, ended: false, expiresAtMs: 1.8e12, authenticatedAtMs: 1.7e12 },
}

/** Microseconds of processor time, which other programs of the machine do not prolong. */
const timeOf = (read: () => unknown): number => {
  const before = process.cpuUsage()
  for (let count = 0; count < reads; count += 1) if (read() === undefined) throw new Error('An entry was not read')
  const { user, system } = process.cpuUsage(before)
  return (user + system) / reads
}

/** What it takes to read one entry of Redis, parsed and checked by its schema: with and without its authentication, in turns. */
export const redisAuthentication: Scenario = async () => {
  const [mac] = createSecrets('a secret of benchmarks').macs('redis-fact')
  const stored = encodeEntry(mac, name, entry)
  const text = JSON.stringify(entry)
  const withTag = () => {
    const read = decodeEntry(mac, name, 'session', stored)
    return typeof read === 'string' ? undefined : read
  }
  const without = () => parseEntry('session', text)
  timeOf(withTag)
  timeOf(without)
  const values: { readonly withTag: number; readonly without: number }[] = []
  for (let round = 0; round < rounds; round += 1) {
    const plain = timeOf(without)
    values.push({ without: plain, withTag: timeOf(withTag) })
  }
  return {
    about: `reading one entry of Redis, without the round trip, in processor time: ${reads} reads with and without authentication, in turns`,
    sides: [],
    findings: [
      { what: 'without authentication', unit: 'us', values: values.map((each) => each.without) },
      { what: 'with authentication', unit: 'us', values: values.map((each) => each.withTag) },
      {
        what: 'what authentication costs',
        unit: 'us',
        values: values.map((each) => each.withTag - each.without),
        target: { below: 2 },
      },
    ],
  }
}
