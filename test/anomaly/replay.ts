import type { Observation } from '../../src/anomaly/delta.ts'
import { createDetector, type Finding, type Judges } from '../../src/anomaly/detector.ts'
import { hashOf } from '../../src/anomaly/hash.ts'
import {
  type Actor,
  type AttackKind,
  addressPrincipal,
  areNeighbours,
  attackKinds,
  instances,
  keyPrincipal,
  type Trace,
  type TraceEvent,
  userPrincipal,
} from './events.ts'

const tickMs = 2_000
/** An attacker must be caught so soon after its first request. */
export const inTimeMs = 60_000
const seed = 0x811c9dc5

const numbers = new Map<string, number>()
const texts = new Map<number, string>()
/** 53 bits, as principals have. */
const idOf = (text: string): number => {
  const known = numbers.get(text)
  if (known !== undefined) return known
  const id = hashOf(text, seed) * 0x20_0000 + (hashOf(text, seed ^ 0x5bd1e995) & 0x1f_ffff)
  numbers.set(text, id)
  texts.set(id, text)
  return id
}

export const principalOf = ({ user, key, address }: TraceEvent): string =>
  user !== undefined ? userPrincipal(user) : key !== undefined ? keyPrincipal(key) : addressPrincipal(address)

const networkOf = (address: string) => address.slice(0, address.lastIndexOf('.'))

const toObservation = (event: TraceEvent): Observation | undefined => {
  const { atMs, kind, user, key, account, resource, outcome } = event
  const isAttempt = kind === 'sign_in'
  if (kind === 'registration') return undefined
  // What people own is nothing to harvest.
  const subject = isAttempt ? account : event.isOwn === true && outcome === 'ok' ? undefined : resource
  return {
    atMs,
    kind: user !== undefined ? 'user' : key !== undefined ? 'key' : 'address',
    principal: idOf(principalOf(event)),
    outcome: isAttempt && outcome === 'ok' ? 'signed_in' : outcome,
    subject: subject === undefined ? 0 : hashOf(subject, seed),
    accountExists: event.accountExists ?? false,
    isKnown: event.isKnownDevice ?? false,
    session: event.session === undefined ? 0 : idOf(event.session),
    network: idOf(networkOf(event.address)),
    country: idOf(event.country),
    device: idOf(event.device),
  }
}

const areNear = (one: number, other: number): boolean => areNeighbours(texts.get(one) ?? '', texts.get(other) ?? '')

export type Flag = { readonly atMs: number; readonly principal: string; readonly finding: Finding }

/** Sends a trace through three instances, which exchange their deltas every two seconds. Returns each flag. */
export const replayTrace = (trace: Trace, newJudges: () => Judges, joined = true): Flag[] => {
  const detectors = Array.from({ length: instances }, () => createDetector({ judges: newJudges(), areNear }))
  const flags: Flag[] = []
  let nextMs = tickMs
  const tick = (atMs: number) => {
    const batches = detectors.map((detector) => {
      const { findings, exchanged } = detector.tick(atMs)
      for (const finding of findings) flags.push({ atMs, principal: texts.get(finding.principal) ?? '', finding })
      return exchanged
    })
    if (!joined) return
    for (const [to, detector] of detectors.entries())
      for (const [from, batch] of batches.entries()) if (from !== to) detector.merge(batch)
  }
  for (const event of trace.events) {
    while (event.atMs >= nextMs) {
      tick(nextMs)
      nextMs += tickMs
    }
    const seen = toObservation(event)
    if (seen !== undefined) detectors[event.instance]?.observe(seen)
  }
  tick(nextMs)
  return flags
}

export type Caught = { attackers: number; caught: number; late: number; medianMs: number }

export type Result = {
  readonly caught: Readonly<Record<AttackKind, Readonly<Record<'one' | 'spread', Caught>>>>
  readonly benign: { readonly principals: number; readonly flagged: readonly { principal: string; habit: string }[] }
  readonly users: { readonly principals: number; readonly flagged: number }
}

const median = (values: readonly number[]) => values.toSorted((one, other) => one - other)[values.length >> 1] ?? 0

/** Compares the flags with the truth. */
export const judgeFlags = (trace: Trace, flags: readonly Flag[]): Result => {
  const firstMs = new Map<number, number>()
  for (const { actor, atMs } of trace.events) if (!firstMs.has(actor)) firstMs.set(actor, atMs)
  const flagsOf = new Map<string, number[]>()
  for (const { principal, atMs } of flags) flagsOf.set(principal, [...(flagsOf.get(principal) ?? []), atMs])
  const attackers = trace.actors.filter(({ attack, id }) => attack !== undefined && firstMs.has(id))

  const caughtOf = (attack: AttackKind, isSpread: boolean): Caught => {
    const own = attackers.filter((actor) => actor.attack === attack && actor.isSpread === isSpread)
    const delays = own.map(({ id, principal }) => {
      const startMs = firstMs.get(id) ?? 0
      const flaggedMs = flagsOf.get(principal)?.find((atMs) => atMs >= startMs)
      return flaggedMs === undefined ? Number.POSITIVE_INFINITY : flaggedMs - startMs
    })
    return {
      attackers: own.length,
      caught: delays.filter((ms) => ms <= inTimeMs).length,
      late: delays.filter((ms) => ms > inTimeMs && ms < Number.POSITIVE_INFINITY).length,
      medianMs: median(delays),
    }
  }

  /** From when on a flag on the principal is true. */
  const attackedFromMs = new Map<string, number>()
  for (const { principal, id } of attackers) {
    const startMs = firstMs.get(id) ?? 0
    attackedFromMs.set(principal, Math.min(startMs, attackedFromMs.get(principal) ?? startMs))
  }
  const habitOf = new Map<string, string>()
  const addHabit = (principal: string, { attack, benign, habit }: Actor) => {
    if (attack === undefined && !habitOf.has(principal)) habitOf.set(principal, `${benign}, ${habit}`)
  }
  for (const event of trace.events) addHabit(principalOf(event), trace.actors[event.actor] as Actor)
  const isFalse = (principal: string) =>
    flagsOf.get(principal)?.some((atMs) => atMs < (attackedFromMs.get(principal) ?? Number.POSITIVE_INFINITY)) ?? false
  const flagged = [...habitOf].flatMap(([principal, habit]) => (isFalse(principal) ? [{ principal, habit }] : []))
  const users = [...habitOf.keys()].filter((principal) => principal.startsWith('user '))
  return {
    caught: Object.fromEntries(
      attackKinds.map((attack) => [attack, { one: caughtOf(attack, false), spread: caughtOf(attack, true) }]),
    ) as Result['caught'],
    benign: { principals: habitOf.size, flagged },
    users: { principals: users.length, flagged: users.filter(isFalse).length },
  }
}
