import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { createApp } from '../../src/app.ts'
import type { Person } from '../harness.ts'
import { sendRaw } from './black-box/wire.ts'
import { mutationsOf } from './link-mutations.ts'
import { type LinksWorld, openOn, type Picture, startLinks } from './links-world.ts'

let world: LinksWorld
let ada: Person
let bob: Person
let picture: Picture
beforeAll(async () => {
  world = await startLinks()
  ada = await world.person()
  bob = await world.person()
  picture = await world.picture(ada)
}, 60_000)
afterAll(() => world.close())

describe('100,000 mutations of a signed link', () => {
  const total = 100_000

  const decoded = (text: string) => {
    try {
      return decodeURIComponent(text)
    } catch {
      return text
    }
  }
  /** The link as the service reads it: spellings of the same link, and parameters that others may add, make no other link. */
  const normalize = (baseUrl: string, target: string): string | undefined => {
    const url = URL.parse(baseUrl + target)
    if (url === null || url.origin !== baseUrl) return undefined
    const known = ['signature', 'share', 'variant'].flatMap((name) =>
      url.searchParams.getAll(name).map((value) => `${name}=${value}`),
    )
    return `${decoded(url.pathname).replace(/\/$/, '')}?${known.join('&')}`
  }
  const openHere = (link: string) => openOn(world.here, link)

  const mutations = (link: string, others: readonly string[], count: number) => {
    const distinct = new Set<string>()
    // Valid links, which are no forgeries.
    const valid = new Set([link, ...others].map((target) => normalize(world.here.baseUrl, target)))
    for (const mutation of mutationsOf(link, others, picture.media)) {
      const target = normalize(world.here.baseUrl, mutation)
      if (target === undefined || valid.has(target)) continue
      // A fragment is never sent.
      distinct.add(mutation.replace(/#.*$/, ''))
      if (distinct.size === count) break
    }
    return [...distinct]
  }
  const otherLinks = async () => [
    await world.sign(bob, picture, { variant: '256' }),
    await world.sign(bob, picture, { method: 'HEAD' }),
    await world.sign(bob, await world.picture(ada)),
    await world.sign(await world.login(bob), picture),
    await world.sign(ada, picture, { expires_in: 86_400 }),
  ]

  test('are all refused without a statement', async () => {
    const link = await world.sign(bob, picture)
    const others = await otherLinks()
    const app = createApp(world.there.services, () => '127.0.0.1')
    expect([await openHere(link), await openOn(world.there, link)]).toEqual(['200', '200'])
    const forged = mutations(link, others, total)
    expect(forged).toHaveLength(total)
    await world.there.leased()
    world.statements.length = 0
    const opened: string[] = []
    const answers = new Map<number, number>()
    for (const target of forged) {
      const { status } = await app.fetch(new Request(world.there.baseUrl + target))
      answers.set(status, (answers.get(status) ?? 0) + 1)
      if (status < 400) opened.push(target)
    }
    expect(opened).toEqual([])
    // Well-formed ones are refused as links (403); the others do not match the route or its parameters.
    expect(answers.get(403)).toBeGreaterThan(total / 2)
    expect([...answers.keys()].filter((status) => ![401, 403, 404, 422].includes(status))).toEqual([])
    expect(world.statements).toEqual([])
    expect((await app.fetch(new Request(world.there.baseUrl + link))).status).toBe(200)
    expect(await openHere(link)).toBe('200')
    for (const other of others) expect(await openOn(world.here, other, { method: 'HEAD' })).toBe('200')
  }, 60_000)

  test('are all refused when sent over a socket, byte for byte', async () => {
    const link = await world.sign(bob, picture)
    const others = await otherLinks()
    const statusOf = async (target: string) => {
      const head = `GET ${target} HTTP/1.1\r\nhost: ${new URL(world.here.baseUrl).host}\r\nconnection: close\r\n\r\n`
      return (await sendRaw(world.here.baseUrl, [Buffer.from(head, 'latin1')]))?.status
    }
    expect(await statusOf(link)).toBe(200)
    const raw: string[] = []
    const valid = new Set([link, ...others].map((target) => normalize(world.here.baseUrl, target)))
    let seen = 0
    for (const mutation of mutationsOf(link, others, picture.media)) {
      seen += 1
      if (seen === 20_000) break
      // White space ends a request target, and a fragment is never sent.
      const isSame = valid.has(normalize(world.here.baseUrl, mutation)) || /[\s#]/.test(mutation)
      // The first 3,000, and of the rest those that URL parsers disagree on.
      if (!isSame && (raw.length < 3_000 || /%|\/\?/.test(mutation))) raw.push(mutation)
    }
    expect(raw.length).toBeGreaterThanOrEqual(3_000)
    const opened: string[] = []
    for (let at = 0; at < raw.length; at += 50) {
      const batch = raw.slice(at, at + 50)
      const statuses = await Promise.all(batch.map(statusOf))
      opened.push(...batch.filter((_, index) => (statuses[index] ?? 400) < 400))
    }
    expect(opened).toEqual([])
    expect(await statusOf(link)).toBe(200)
  }, 60_000)
})
