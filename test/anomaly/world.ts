import type { Choices } from './choices.ts'
import {
  type Actor,
  addressPrincipal,
  areNeighbours,
  durationMs,
  instances,
  keyPrincipal,
  type TraceEvent,
  userPrincipal,
} from './events.ts'

/** What people do with the service. The shares below are those of `habits`. */
export const habits = [
  ['casual', 52],
  ['creator', 20],
  ['gallery', 14],
  ['polling script', 4],
  ['exporter', 0.6],
  ['traveller', 3],
  ['vpn', 1.4],
  ['border', 0.4],
  ['phone', 4.2],
  ['desktop site', 0.4],
] as const
export type Habit = (typeof habits)[number][0]

export type Place = { readonly address: string; readonly country: string }

export type Person = {
  readonly actor: Actor
  readonly user: string
  readonly habit: Habit
  readonly home: Place
  readonly devices: readonly string[]
  /** The resources that the person works with. */
  readonly resources: readonly string[]
  /** Whether a load balancer sends every request to the same instance. */
  readonly instance: number | undefined
  /** Undefined: works from home. */
  readonly office: number | undefined
}

export type Office = {
  readonly address: string
  readonly country: string
  readonly size: number
  readonly rushMs: number
}

const countries = [
  ['US', 30],
  ['DE', 28],
  ['FR', 15],
  ['GB', 10],
  ['IN', 10],
  ['BR', 5],
  ['PL', 2],
] as const
export const devices = [
  ['Chrome/Windows', 40],
  ['Safari/iOS', 17],
  ['Chrome/Android', 15],
  ['Chrome/macOS', 12],
  ['Safari/macOS', 11],
  ['Firefox/Linux', 5],
] as const

const userCount = 1_000
const officeSizes = [20, 40, 60, 90, 120]
const addressesPerCarrier = 4

/** People, their offices, networks and devices. */
export const createWorld = (choices: Choices) => {
  const { below, chance, pick, weighted, whole, between } = choices
  const actors: Actor[] = []
  let names = 0
  const name = (prefix: string) => {
    names += 1
    return `${prefix}-${names.toString(36)}-${below(2 ** 30).toString(36)}`
  }
  const newAddress = () => `${whole(11, 180)}.${below(256)}.${below(256)}.${whole(1, 254)}`
  const newCountry = () => weighted(countries)
  const newDevice = () => weighted(devices)

  const addActor = (given: Omit<Actor, 'id'>): Actor => {
    const actor = { ...given, id: actors.length }
    actors.push(actor)
    return actor
  }

  /** Mobile networks, whose customers share a few addresses. */
  const carriers = new Map(
    countries.map(([country]) => [country as string, Array.from({ length: addressesPerCarrier }, newAddress)]),
  )
  /** Where private networks (VPN) come out. */
  const vpnExits: readonly Place[] = Array.from({ length: 6 }, (_, at) => ({
    address: newAddress(),
    country: ['NL', 'SE', 'CH', 'US', 'RO', 'SG'][at] ?? 'NL',
  }))
  const offices: readonly Office[] = officeSizes.map((size) => ({
    address: newAddress(),
    country: newCountry(),
    size,
    rushMs: between(0.05, 0.6) * durationMs,
  }))
  const officePlaces = offices.flatMap(({ size }, at) => Array.from({ length: size }, () => at))

  const people: readonly Person[] = Array.from({ length: userCount }, (_, at): Person => {
    const user = name('u')
    const habit = weighted(habits)
    const office = officePlaces[at]
    const usual = office === undefined ? newCountry() : (offices[office]?.country ?? 'US')
    // Only there the trace has neighbours.
    const country = habit === 'border' ? 'DE' : usual
    const isSpread = chance(0.5)
    return {
      actor: addActor({ attack: undefined, benign: 'user', habit, principal: userPrincipal(user), isSpread }),
      user,
      habit,
      home: { address: newAddress(), country },
      devices: Array.from({ length: whole(1, 3) }, newDevice),
      resources: Array.from({ length: whole(5, 60) }, () => name('r')),
      instance: isSpread ? undefined : below(instances),
      office,
    }
  })

  return {
    choices,
    actors,
    addActor,
    name,
    newAddress,
    newCountry,
    newDevice,
    people,
    offices,
    /** A cell of the mobile network of the country. */
    cellOf: (country: string): Place => ({ address: pick(carriers.get(country) ?? [newAddress()]), country }),
    abroad: (country: string): string => {
      let other = newCountry() as string
      while (other === country || areNeighbours(other, country))
        other = pick(['NL', 'SE', 'ES', 'RO', 'VN', 'US', 'BR'])
      return other
    },
    neighbourOf: (country: string): string => (country === 'DE' ? 'FR' : 'DE'),
    vpnExits,
    sharedAddresses: new Set([
      ...offices.map(({ address }) => address),
      ...[...carriers.values()].flat(),
      ...vpnExits.map(({ address }) => address),
    ]),
    visitor: () => {
      const address = newAddress()
      return {
        address,
        actor: addActor({
          attack: undefined,
          benign: 'visitor',
          habit: 'share link',
          principal: addressPrincipal(address),
          isSpread: true,
        }),
      }
    },
    key: (habit: string) => {
      const key = name('k')
      return {
        key,
        address: newAddress(),
        actor: addActor({
          attack: undefined,
          benign: 'service key',
          habit,
          principal: keyPrincipal(key),
          isSpread: true,
        }),
      }
    },
    instanceOf: (instance: number | undefined) => instance ?? below(instances),
  }
}

export type World = ReturnType<typeof createWorld>

/** An event without what its actor fills in. */
export type Draft = Omit<TraceEvent, 'instance' | 'actor'>
