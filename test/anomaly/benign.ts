import { addressPrincipal, durationMs, type TraceEvent } from './events.ts'
import type { Person, Place, World } from './world.ts'

/*
 * Benign traffic that may look like an attack: bursts, galleries of many resources, typos and forgotten passwords,
 * new devices, travel, private networks (VPN), phones that change networks, offices that sign in at once behind one address,
 * requests for deleted resources, expired tokens, and scripts.
 */

/** Requests of a page come in parallel. */
const parallelMs = 60

export const createBenign = (world: World) => {
  const { choices, name, instanceOf } = world
  const { below, chance, pick, whole, between, thinking, exponential } = choices
  const events: TraceEvent[] = []
  /** How many sessions a device of a person has had. */
  const sessions = new Map<string, number>()
  const sessionOf = (ownDevice: string) => `${ownDevice} ${sessions.get(ownDevice) ?? 0}`

  /** One visit of a person: its place and its requests. */
  const createVisit = (person: Person, place: Place, given: string) => {
    let at = place
    let device = given
    const ownDevice = `${person.user} ${given}`
    /** Without an access token: it is not valid, or has yet to be given out. */
    const sendUnsigned = (atMs: number, more: Partial<TraceEvent>) => {
      if (atMs >= durationMs) return
      events.push({
        atMs,
        instance: instanceOf(person.instance),
        kind: 'request',
        address: at.address,
        country: at.country,
        device,
        outcome: 'ok',
        actor: person.actor.id,
        ...more,
      })
    }
    const send = (atMs: number, more: Partial<TraceEvent>) =>
      sendUnsigned(atMs, { user: person.user, session: sessionOf(ownDevice), ...more })
    return {
      send,
      sendUnsigned,
      move: (to: Place) => {
        at = to
      },
      place: () => at,
      /** A sign-in opens another session. */
      signedIn: () => void sessions.set(ownDevice, (sessions.get(ownDevice) ?? 0) + 1),
      /** The browser asks for the page that desktops get, and says that it is one; or no longer. */
      switchSite: () => {
        device = device === given ? 'Safari/macOS' : given
      },
    }
  }
  type Visit = ReturnType<typeof createVisit>

  /** Returns when the person is signed in. */
  const signIn = (person: Person, visit: Visit, startMs: number, isNewDevice: boolean): number => {
    let atMs = startMs
    // Many clients store no device token.
    const isKnownDevice = !isNewDevice && chance(0.6)
    const attempt = (more: Partial<TraceEvent>) =>
      visit.sendUnsigned(atMs, {
        kind: 'sign_in',
        account: person.user,
        accountExists: true,
        isKnownDevice,
        ...more,
      })
    if (chance(0.02)) {
      attempt({ account: name('typo'), accountExists: false, isKnownDevice: false, outcome: 'failed' })
      atMs += thinking(7_000, 0.5)
    }
    const typos = chance(0.015) ? whole(3, 8) : chance(0.1) ? whole(1, 2) : 0
    for (let typo = 0; typo < typos; typo += 1) {
      attempt({ outcome: 'failed' })
      atMs += thinking(6_000, 0.5)
    }
    attempt({ outcome: 'ok' })
    visit.signedIn()
    return atMs + between(150, 500)
  }

  /** A page of the application: the account, a list, and the resources in it. Returns when it is complete. */
  const openPage = (person: Person, visit: Visit, startMs: number): number => {
    let atMs = startMs
    visit.send(atMs, {})
    visit.send(atMs + parallelMs, {})
    for (let shown = below(7); shown > 0; shown -= 1) {
      atMs += exponential(parallelMs)
      visit.send(atMs, { resource: pick(person.resources), isOwn: chance(0.5) })
    }
    return atMs
  }

  const browseGallery = (visit: Visit, startMs: number): number => {
    let atMs = startMs
    for (let pages = whole(1, 4); pages > 0; pages -= 1) {
      visit.send(atMs, {})
      for (let pictures = whole(12, 48); pictures > 0; pictures -= 1) {
        atMs += exponential(parallelMs)
        visit.send(atMs, { resource: name('g') })
      }
      atMs += thinking(18_000)
    }
    return atMs
  }

  const create = (person: Person, visit: Visit, startMs: number): number => {
    let atMs = startMs
    const made = name('r')
    visit.send(atMs, {})
    for (let polls = whole(3, 20); polls > 0; polls -= 1) {
      atMs += between(1_800, 2_400)
      visit.send(atMs, { resource: made, isOwn: true })
    }
    for (let outputs = whole(1, 4); outputs > 0; outputs -= 1)
      visit.send(atMs + outputs * parallelMs, { resource: made, isOwn: true })
    if (chance(0.2)) visit.send(atMs + 900, { resource: pick(person.resources), outcome: 'denied' })
    return atMs
  }

  /** Deletes resources; its client goes on asking for them for a while. */
  const removeSome = (person: Person, visit: Visit, startMs: number): number => {
    let atMs = startMs
    const removed = Array.from({ length: whole(1, 4) }, () => pick(person.resources))
    for (const resource of removed) {
      visit.send(atMs, { resource })
      atMs += thinking(1_200, 0.4)
    }
    for (let polls = whole(2, 10); polls > 0; polls -= 1) {
      visit.send(atMs, { resource: pick(removed), outcome: 'not_found' })
      atMs += between(1_000, 4_000)
    }
    return atMs
  }

  /** Another member deleted a project: the list that is still open asks for everything in it. */
  const openStaleList = (visit: Visit, startMs: number): number => {
    let atMs = startMs
    for (let missing = whole(8, 26); missing > 0; missing -= 1) {
      atMs += exponential(parallelMs)
      visit.send(atMs, { resource: name('gone'), outcome: 'not_found' })
    }
    return atMs
  }

  /** All requests of a page are refused, because the token has expired; then the client refreshes it. */
  const expire = (visit: Visit, startMs: number): number => {
    let atMs = startMs
    for (let refused = whole(2, 12); refused > 0; refused -= 1) {
      atMs += exponential(parallelMs)
      visit.sendUnsigned(atMs, { outcome: 'unauthorized' })
    }
    visit.sendUnsigned(atMs + 80, {})
    return atMs + 200
  }

  const poll = (person: Person, visit: Visit, startMs: number): number => {
    let atMs = startMs
    const everyMs = 60_000 / whole(15, 50)
    const watched = person.resources.slice(0, whole(1, 5))
    for (let polls = whole(30, 90); polls > 0; polls -= 1) {
      atMs += everyMs * between(0.9, 1.1)
      visit.send(atMs, { resource: pick(watched) })
    }
    return atMs
  }

  /** Downloads all that the person owns. */
  const exportAll = (visit: Visit, startMs: number): number => {
    let atMs = startMs
    const everyMs = 60_000 / whole(40, 100)
    for (let left = whole(80, 300); left > 0; left -= 1) {
      atMs += exponential(everyMs)
      visit.send(atMs, { resource: name('own'), isOwn: true })
    }
    return atMs
  }

  const doSomething = (person: Person, visit: Visit, atMs: number): number => {
    const { habit } = person
    if (habit === 'polling script') return chance(0.5) ? poll(person, visit, atMs) : openPage(person, visit, atMs)
    if (habit === 'exporter') return chance(0.4) ? exportAll(visit, atMs) : openPage(person, visit, atMs)
    if (habit === 'gallery' && chance(0.6)) return browseGallery(visit, atMs)
    if (habit === 'creator' && chance(0.6)) return create(person, visit, atMs)
    if (chance(0.05)) return browseGallery(visit, atMs)
    if (chance(0.05)) return removeSome(person, visit, atMs)
    if (chance(0.02)) return openStaleList(visit, atMs)
    if (chance(0.03)) return expire(visit, atMs)
    return openPage(person, visit, atMs)
  }

  /** Where a person is after its last action, by its habit. */
  const wander = (person: Person, visit: Visit, home: Place) => {
    const { habit } = person
    if (habit === 'phone' && chance(0.4)) visit.move(chance(0.5) ? world.cellOf(home.country) : home)
    if (habit === 'vpn' && chance(0.25)) visit.move(visit.place() === home ? pick(world.vpnExits) : home)
    if (habit === 'desktop site' && chance(0.4)) visit.switchSite()
    if (habit === 'border' && chance(0.5)) {
      const other = visit.place().country === home.country ? world.neighbourOf(home.country) : home.country
      visit.move(world.cellOf(other))
    }
  }

  /** When travellers leave; they send nothing while they travel. */
  const leavesMs = new Map(
    world.people
      .filter(({ habit }) => habit === 'traveller')
      .map(({ user, home }) => [
        user,
        {
          fromMs: between(0.2, 0.7) * durationMs,
          place: { address: world.newAddress(), country: world.abroad(home.country) },
        },
      ]),
  )
  const travelMs = 1_500_000

  /**
   * One visit. It begins with a sign-in, or in the session of the last one. Visits of a person may overlap: people have a phone
   * beside their laptop.
   */
  const visit = (person: Person, startMs: number, signsIn: boolean): void => {
    const office = person.office === undefined ? undefined : world.offices[person.office]
    const journey = leavesMs.get(person.user)
    const isAway = journey !== undefined && startMs > journey.fromMs
    if (isAway && startMs < journey.fromMs + travelMs) return
    const isByPhone = person.habit === 'phone' && chance(0.5)
    const usual = isByPhone ? world.cellOf(person.home.country) : (office ?? person.home)
    const place: Place = isAway ? journey.place : usual
    const isNewDevice = chance(0.05)
    const device = isNewDevice ? world.newDevice() : pick(person.devices)
    const made = createVisit(person, place, device)
    let atMs = startMs
    if (signsIn || isNewDevice || (isAway && chance(0.5))) atMs = signIn(person, made, atMs, isNewDevice)
    for (let actions = whole(1, 3); actions > 0 && atMs < durationMs; actions -= 1) {
      atMs = doSomething(person, made, atMs) + thinking(9_000)
      wander(person, made, place)
    }
  }

  /** Everybody comes to the office within some minutes; after an outage all sign in within a minute or so. */
  const rush = () => {
    for (const [at, { rushMs }] of world.offices.entries()) {
      const isOutage = at % 2 === 0
      for (const person of world.people.filter(({ office }) => office === at))
        visit(person, rushMs + between(0, isOutage ? 80_000 : 420_000), isOutage || chance(0.7))
    }
  }

  const runKeys = () => {
    const send = (who: ReturnType<World['key']>, atMs: number, more: Partial<TraceEvent>) =>
      events.push({
        atMs,
        instance: instanceOf(undefined),
        kind: 'request',
        key: who.key,
        address: who.address,
        country: 'US',
        device: 'script',
        outcome: 'ok',
        actor: who.actor.id,
        ...more,
      })
    const steady = (habit: string, perMinute: number, missing: number, denied: number, pool: number) => {
      const who = world.key(habit)
      const known = Array.from({ length: pool }, () => name('r'))
      for (let atMs = between(0, 60_000); atMs < durationMs; atMs += (60_000 / perMinute) * between(0.8, 1.2)) {
        const outcome = chance(missing) ? 'not_found' : chance(denied) ? 'denied' : 'ok'
        send(who, atMs, { resource: pick(known), outcome })
      }
    }
    steady('checks', whole(15, 30), 0.01, 0.1, 300)
    steady('checks, many denied', whole(10, 20), 0.02, 0.35, 200)
    steady('asks for deleted resources', whole(6, 12), 0.35, 0, 150)
    for (const habit of ['batch', 'large batch']) {
      const who = world.key(habit)
      const everyMs = whole(12, 25) * 60_000
      for (let startMs = between(0, everyMs); startMs < durationMs; startMs += everyMs) {
        let atMs = startMs
        for (let left = habit === 'batch' ? whole(60, 120) : whole(150, 250); left > 0; left -= 1) {
          atMs += exponential(150)
          send(who, atMs, { resource: name('b'), outcome: chance(0.04) ? 'not_found' : 'ok' })
        }
      }
    }
  }

  /** People without an account who open share links, and servers whose password is wrong. */
  const runOthers = () => {
    for (let left = 150; left > 0; left -= 1) {
      const { actor, address } = world.visitor()
      const country = world.newCountry()
      const device = world.newDevice()
      let atMs = between(0, durationMs - 120_000)
      const isGallery = chance(0.2)
      for (let links = isGallery ? whole(15, 40) : whole(1, 8); links > 0; links -= 1) {
        atMs += isGallery ? exponential(parallelMs) : thinking(5_000)
        const outcome = chance(0.03) ? 'not_found' : 'ok'
        events.push({
          atMs,
          instance: instanceOf(undefined),
          kind: 'request',
          address,
          country,
          device,
          resource: name('s'),
          outcome,
          actor: actor.id,
        })
      }
    }
    for (let left = 3; left > 0; left -= 1) {
      const owner = pick(world.people)
      const address = world.newAddress()
      const actor = world.addActor({
        attack: undefined,
        benign: 'server',
        habit: 'wrong password',
        principal: addressPrincipal(address),
        isSpread: true,
      })
      for (let atMs = between(0, 60_000); atMs < durationMs; atMs += between(55_000, 65_000))
        events.push({
          atMs,
          instance: instanceOf(undefined),
          kind: 'sign_in',
          address,
          country: 'US',
          device: 'script',
          account: owner.user,
          accountExists: true,
          isKnownDevice: false,
          outcome: 'failed',
          actor: actor.id,
        })
    }
  }

  /** A course of 25 people, behind one address, registers and signs in. */
  const runCourse = () => {
    const startMs = between(0.1, 0.8) * durationMs
    const place = { address: world.newAddress(), country: 'DE' }
    for (const person of world.people.filter(({ office }) => office === undefined).slice(0, 25)) {
      const made = createVisit(person, place, pick(person.devices))
      let atMs = startMs + between(0, 180_000)
      made.sendUnsigned(atMs, { kind: 'registration', account: person.user })
      atMs = signIn(person, made, atMs + thinking(20_000, 0.5), true)
      openPage(person, made, atMs)
    }
    return place.address
  }

  return { events, visit, rush, runKeys, runOthers, runCourse }
}
