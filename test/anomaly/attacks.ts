import { type AttackKind, addressPrincipal, durationMs, type TraceEvent, userPrincipal } from './events.ts'
import type { Draft, World } from './world.ts'

/*
 * Attacks stay below the budgets of the policy table where they can, and use addresses of offices and mobile networks now and
 * then. The slowest send 10 attempts or 4 stolen requests a minute: within a minute slower ones look like people.
 */

export const attackersPerKind = 20

/** Attacks of one seed: 20 of each kind on one instance, and 20 spread over all of them. */
export const createAttacks = (world: World, benign: readonly TraceEvent[]) => {
  const { choices, name, people, instanceOf } = world
  const { below, chance, pick, whole, between, logBetween, exponential } = choices
  const events: TraceEvent[] = []
  const latestStartMs = durationMs - 600_000
  const newStart = () => between(900_000, latestStartMs)

  const attacker = (attack: AttackKind, principal: string, isSpread: boolean) => {
    const actor = world.addActor({ attack, benign: undefined, habit: attack, principal, isSpread })
    const instance = isSpread ? undefined : below(3)
    return (draft: Draft) => events.push({ ...draft, instance: instanceOf(instance), actor: actor.id })
  }

  /** Some work from where people are. */
  const newSource = () => {
    const office = pick(world.offices)
    if (chance(0.06)) return { address: office.address, country: office.country }
    if (chance(0.06)) return world.cellOf('US')
    return { address: world.newAddress(), country: pick(['US', 'RO', 'VN', 'BR', 'NL', 'IN']) }
  }

  /** Calls `step` at the times of a process with this rate, for some minutes. */
  const repeat = (perMinute: number, step: (atMs: number) => void) => {
    const startMs = newStart()
    const endMs = startMs + between(180_000, 540_000)
    const isRegular = chance(0.5)
    const everyMs = 60_000 / perMinute
    for (let atMs = startMs; atMs < endMs; atMs += isRegular ? everyMs * between(0.7, 1.3) : exponential(everyMs))
      step(atMs)
  }

  /** Passwords leaked elsewhere, each tried on the address it was leaked with. */
  const stuff = (isSpread: boolean) => {
    const source = newSource()
    const send = attacker('stuffing', addressPrincipal(source.address), isSpread)
    const known = between(0.05, 0.4)
    const right = between(0, 0.03)
    let last: Partial<TraceEvent> = {}
    repeat(logBetween(12, 150), (atMs) => {
      const accountExists = chance(known)
      const fresh = { account: accountExists ? pick(people).user : name('leaked'), accountExists }
      if (last.account === undefined || !chance(0.15)) last = fresh
      const outcome = last.accountExists === true && chance(right) ? 'ok' : 'failed'
      const device = world.newDevice()
      send({ atMs, kind: 'sign_in', ...source, ...last, isKnownDevice: false, device, outcome })
    })
  }

  /** A few common passwords, each tried on all accounts that are known. */
  const spray = (isSpread: boolean) => {
    const source = newSource()
    const send = attacker('spraying', addressPrincipal(source.address), isSpread)
    const device = world.newDevice()
    const right = between(0, 0.01)
    let at = below(people.length)
    repeat(logBetween(10, 60), (atMs) => {
      at = (at + 1) % people.length
      const account = people[at]?.user ?? ''
      const outcome = chance(right) ? 'ok' : 'failed'
      send({ atMs, kind: 'sign_in', ...source, account, accountExists: true, isKnownDevice: false, device, outcome })
    })
  }

  const requestsByUser = new Map<string, TraceEvent[]>()
  for (const event of benign) {
    if (event.user === undefined) continue
    const known = requestsByUser.get(event.user)
    if (known === undefined) requestsByUser.set(event.user, [event])
    else known.push(event)
  }
  const victims = people.filter(({ user }) =>
    requestsByUser.get(user)?.some(({ atMs }) => atMs > 900_000 && atMs < latestStartMs),
  )

  /** Uses the access token of a person who is active, or was within the 15 minutes that a token lasts. */
  const replay = (isSpread: boolean) => {
    const [victim] = victims.splice(below(victims.length), 1)
    if (victim === undefined) throw new Error('There are too few people to steal from')
    const { user } = victim
    const send = attacker('token replay', userPrincipal(user), isSpread)
    const active = (requestsByUser.get(user) ?? []).filter(({ atMs }) => atMs > 900_000 && atMs < latestStartMs)
    const stolen = pick(active)
    const country = world.abroad(stolen.country)
    const address = world.newAddress()
    const device = chance(0.35) ? stolen.device : world.newDevice()
    const who = { user, session: stolen.session ?? '', address, country, device }
    let atMs = stolen.atMs + (chance(0.6) ? between(1_000, 20_000) : between(60_000, 600_000))
    const everyMs = 60_000 / logBetween(4, 60)
    for (let left = whole(10, 60); left > 0; left -= 1) {
      const resource = chance(0.7) ? { resource: pick(victim.resources), isOwn: chance(0.5) } : {}
      send({ atMs, kind: 'request', ...who, ...resource, outcome: chance(0.05) ? 'denied' : 'ok' })
      atMs += exponential(everyMs)
    }
  }

  /** The reader: a new account, or a client without an account. */
  const newReader = (attack: AttackKind, isSpread: boolean) => {
    const source = newSource()
    const isAnonymous = chance(0.25)
    const user = name('u')
    const principal = isAnonymous ? addressPrincipal(source.address) : userPrincipal(user)
    const send = attacker(attack, principal, isSpread)
    const device = chance(0.5) ? 'script' : world.newDevice()
    const who = isAnonymous ? { ...source, device } : { ...source, device, user, session: `${user} ${device}` }
    return {
      isAnonymous,
      read: (more: Pick<TraceEvent, 'atMs' | 'outcome'> & { resource?: string }) =>
        send({ kind: 'request', ...who, ...more }),
    }
  }

  /** Asks for ids, nearly all of which are not there or not visible. */
  const enumerate = (isSpread: boolean) => {
    const { isAnonymous, read } = newReader('id enumeration', isSpread)
    const perMinute = isAnonymous ? logBetween(20, 55) : logBetween(20, 115)
    const missing = between(0.6, 1)
    const atOnce = chance(0.3) ? whole(3, 10) : 1
    repeat(perMinute / atOnce, (atMs) => {
      for (let at = 0; at < atOnce; at += 1) {
        const isMissing = chance(missing)
        read({
          atMs: atMs + at * 40,
          resource: name(isMissing ? 'guess' : 'r'),
          outcome: isMissing ? 'not_found' : 'ok',
        })
      }
    })
  }

  /** Reads everything that is public or shared, each resource once. */
  const scrape = (isSpread: boolean) => {
    const { isAnonymous, read } = newReader('scraping', isSpread)
    const perMinute = isAnonymous ? logBetween(30, 55) : logBetween(45, 115)
    const atOnce = chance(0.4) ? whole(5, 20) : 1
    repeat(perMinute / atOnce, (atMs) => {
      if (chance(0.05 * atOnce)) read({ atMs, outcome: 'ok' })
      for (let at = 0; at < atOnce; at += 1)
        read({ atMs: atMs + 50 + at * 50, resource: name('p'), outcome: chance(0.02) ? 'not_found' : 'ok' })
    })
  }

  const run = () => {
    for (const isSpread of [false, true]) {
      for (let at = 0; at < attackersPerKind; at += 1) {
        for (const attack of [stuff, spray, replay, enumerate, scrape]) attack(isSpread)
      }
    }
  }
  return { events, run }
}
