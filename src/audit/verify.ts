import { Buffer } from 'node:buffer'
import { timingSafeEqual } from 'node:crypto'
import type { AuditSource } from '../http/request-context.ts'
import { yieldToEventLoop } from '../kit/async.ts'
import {
  checkpointType,
  type Head,
  hashOfLink,
  hashOfOpening,
  hashOfRow,
  headType,
  type Position,
  unknownPrevious,
} from './chain.ts'
import type { AuditKeyRow } from './chain-store.ts'
import { contentOf, hashOfDetails } from './event.ts'
import type { AuditKeys } from './keys.ts'
import type { LinkedRow, VerifyStore } from './verify-store.ts'

/** A problem and its place. `sequence` is the place in the chain of the month, `to` the end of a range. */
export type AuditProblem = {
  readonly problem: AuditProblemKind
  readonly month: string
  readonly sequence?: number
  readonly to?: number
  readonly event_id?: string
  readonly event_at?: string
}

export const problemKinds = {
  event_altered: 'An event differs from what was linked',
  event_removed: 'An event was linked and is gone',
  event_inserted: 'An event stands in the log that was never linked',
  event_not_authentic: 'An event was not written by this service',
  event_repeated: 'An event was recorded a second time: its id was linked before',
  details_altered: 'The personal data of an event differ from what was recorded',
  details_removed: 'The personal data of an event are gone, and their account is not closed',
  links_removed: 'Links of the chain are gone, and with them the proof of their events',
  link_altered: 'A link does not follow from the one before',
  chain_restarted: 'The chain began anew here, because its signed head was missing or changed',
  chain_rewritten: 'The links up to this one were computed again: they differ from what was signed',
  links_not_signed: 'Links come after the signed head',
  head_missing: 'The signed head of the month is gone',
  head_not_authentic: 'The head of the month was not signed by this service',
  month_removed: 'A month is gone that a later one follows',
} as const
export type AuditProblemKind = keyof typeof problemKinds

export type AuditReport = {
  readonly problems: readonly AuditProblem[]
  /** Events whose link was verified. */
  readonly verified: number
  /** Events that are not linked yet. */
  readonly pending: number
  /** Events whose personal data were erased with their account. */
  readonly erased: number
  /** The newest signed head that was verified. */
  readonly head: string | null
}

type Dependencies = {
  readonly store: VerifyStore
  readonly keys: AuditKeys
  readonly macOf: AuditSource['macOf']
}

const pageSize = 1_000
/** After this number of events the process does other work: about 5 ms. */
const eventsAtOnce = 200
/** A destroyed log has a problem for each row. */
export const maxProblems = 1_000
/** How many events that are not linked yet are verified: more than a chain that keeps up leaves. */
const maxPending = 2_000

const isSame = (one: Uint8Array, other: Uint8Array): boolean =>
  one.length === other.length && timingSafeEqual(Buffer.from(one), Buffer.from(other))

/** Problems up to `maxProblems`. */
const createFindings = () => {
  const problems: AuditProblem[] = []
  return {
    problems,
    add: (problem: AuditProblem): void => {
      if (problems.length < maxProblems) problems.push(problem)
    },
  }
}
type Findings = ReturnType<typeof createFindings>

const checkEvent = (
  { link, event, details, closed, isRepeated }: LinkedRow,
  month: string,
  macOf: AuditSource['macOf'],
  add: Findings['add'],
): 'erased' | undefined => {
  const at = { month, sequence: Number(link.sequence), event_id: link.event_id, event_at: link.event_at }
  if (event === undefined) {
    add({ problem: 'event_removed', ...at })
    return undefined
  }
  // Its HMAC is right, because it covers the id, not the time: someone stored a genuine event once more.
  if (isRepeated) add({ problem: 'event_repeated', ...at })
  if (hashOfRow(event) !== link.row_hash) add({ problem: 'event_altered', ...at })
  else if (!isSame(macOf(contentOf(event)), event.mac)) add({ problem: 'event_not_authentic', ...at })
  if (details === undefined) {
    if (event.details_hash === null) return undefined
    if (closed) return 'erased'
    add({ problem: 'details_removed', ...at })
  } else if (event.details_hash === null || !isSame(hashOfDetails(details), event.details_hash)) {
    add({ problem: 'details_altered', ...at })
  }
  return undefined
}

/** Where a part of the verification begins: behind a link of a month. */
export type VerifyPlace = { readonly month: string; readonly after: number }

type Known = {
  readonly auditKeys: readonly AuditKeyRow[]
  /** Heads that left the database before. */
  readonly expected: readonly Position[]
}

const readHead = async ({ keys }: Dependencies, month: string, token: string | undefined, { auditKeys }: Known) => {
  const read = token === undefined ? undefined : await keys.read(token, headType, auditKeys)
  return read?.month === month ? read : undefined
}

/** The hashes of a month that were signed, by their place. */
const signedHashes = async (
  { store, keys }: Dependencies,
  month: string,
  head: Head | undefined,
  { auditKeys, expected }: Known,
  add: Findings['add'],
): Promise<Map<number, string>> => {
  const own = expected.filter((each) => each.month === month)
  const signed = new Map<number, string>(own.map(({ sequence, hash }) => [sequence, hash]))
  for (const checkpoint of await store.listCheckpoints(month)) {
    const found = await keys.read(checkpoint.token, checkpointType, auditKeys)
    if (found?.month === month && found.sequence === checkpoint.sequence) signed.set(found.sequence, found.hash)
    else add({ problem: 'head_not_authentic', month, sequence: checkpoint.sequence })
  }
  if (head !== undefined) signed.set(head.sequence, head.hash)
  return signed
}

/** Verifies up to `limit` links of a month, and its end where it reaches that. */
const verifyMonth = async (
  dependencies: Dependencies,
  { month, token, after }: VerifyPlace & { readonly token: string | undefined },
  known: Known,
  limit: number,
  add: Findings['add'],
) => {
  const { store, macOf } = dependencies
  const head = await readHead(dependencies, month, token, known)
  const signed = await signedHashes(dependencies, month, head, known, after === 0 ? add : () => {})
  const counted = { verified: 0, erased: 0 }
  let sequence = after
  let previous = after === 0 ? hashOfOpening(month, head?.opens ?? null) : await store.findHash(month, after)
  for (;;) {
    const rows = await store.listLinks(month, sequence, Math.min(pageSize, limit - counted.verified))
    for (const row of rows) {
      const { link } = row
      const at = Number(link.sequence)
      if (at > sequence + 1) add({ problem: 'links_removed', month, sequence: sequence + 1, to: at - 1 })
      else if (previous !== undefined && link.hash !== hashOfLink(month, at, previous, link.row_hash)) {
        const restarted = link.hash === hashOfLink(month, at, unknownPrevious, link.row_hash)
        // Without a head it is not known what the first link follows.
        if (restarted) add({ problem: 'chain_restarted', month, sequence: at })
        else if (at > 1 || head !== undefined)
          add({ problem: 'link_altered', month, sequence: at, event_id: link.event_id })
      }
      const wanted = signed.get(at)
      if (wanted !== undefined && wanted !== link.hash) add({ problem: 'chain_rewritten', month, to: at })
      if (checkEvent(row, month, macOf, add) === 'erased') counted.erased += 1
      counted.verified += 1
      sequence = at
      previous = link.hash
      if (counted.verified % eventsAtOnce === 0) await yieldToEventLoop()
    }
    if (rows.length === 0) break
    if (counted.verified >= limit) return { ...counted, pending: 0, head, next: { month, after: sequence } }
  }
  const newest = Math.max(0, ...signed.keys())
  if (newest > sequence) add({ problem: 'links_removed', month, sequence: sequence + 1, to: newest })
  if (token === undefined) {
    if (sequence > 0) add({ problem: 'head_missing', month })
  } else if (head === undefined) add({ problem: 'head_not_authentic', month })
  else if (head.sequence < sequence)
    add({ problem: 'links_not_signed', month, sequence: head.sequence + 1, to: sequence })
  for (const { id, at } of await store.findStrays(month, maxProblems))
    add({ problem: 'event_inserted', month, event_id: id, event_at: at })
  const { count, events } = await store.findPending(month, maxPending)
  for (const { event, isRepeated } of events) {
    const at = { month, event_id: event.id, event_at: event.at }
    if (isRepeated) add({ problem: 'event_repeated', ...at })
    else if (!isSame(macOf(contentOf(event)), event.mac)) add({ problem: 'event_not_authentic', ...at })
  }
  return { ...counted, pending: count, head, next: undefined }
}

/** Whether each month that a later one follows is there, or was dropped when its time was over. */
const checkMonths = (
  heads: ReadonlyMap<string, Head | undefined>,
  expected: readonly Position[],
  add: Findings['add'],
): void => {
  for (const head of heads.values()) {
    const opens = head?.opens
    if (opens && (heads.get(opens.month)?.sequence ?? 0) < opens.sequence)
      add({ problem: 'month_removed', month: opens.month, to: opens.sequence })
  }
  for (const { month, sequence } of expected)
    if (!heads.has(month)) add({ problem: 'links_removed', month, sequence: 1, to: sequence })
}

/** Thrown for a given head that this service has not signed. `place`: which of the given ones, from 1. */
export class ForeignHead extends Error {
  override readonly name = 'ForeignHead'
  readonly place: number
  constructor(place: number) {
    super('A given head was not signed by this service')
    this.place = place
  }
}

/**
 * Verifies the audit log, or up to `limit` events of it behind a place, and locates every event that was altered, removed, swapped
 * or inserted since it was linked.
 *
 * `heads` are signed heads that left the database before: a log that was cut at its end, signed head and all, is only found by
 * them. Throws `ForeignHead`. Memory: a page of 1,000 rows. Reports at most 1,000 problems.
 */
export const verifyAudit = async (
  dependencies: Dependencies,
  {
    heads: given = [],
    from,
    limit = Number.POSITIVE_INFINITY,
  }: {
    readonly heads?: readonly string[]
    readonly from?: VerifyPlace | undefined
    readonly limit?: number
  } = {},
): Promise<AuditReport & { readonly next: VerifyPlace | undefined }> => {
  const { store, keys } = dependencies
  const { problems, add } = createFindings()
  const auditKeys = await store.keys()
  const expected: Head[] = []
  for (const [index, token] of given.entries()) {
    const head = await keys.read(token, headType, auditKeys)
    if (head === undefined) throw new ForeignHead(index + 1)
    expected.push(head)
  }
  const known = { auditKeys, expected }
  const months = await store.listMonths()
  const heads = new Map<string, Head | undefined>()
  for (const { month, token } of months)
    heads.set(month, await readHead(dependencies, month, token ?? undefined, known))
  if (from === undefined) checkMonths(heads, expected, add)
  const total = { verified: 0, pending: 0, erased: 0 }
  let next: VerifyPlace | undefined
  for (const { month, token, isEmpty } of months) {
    if (next !== undefined || (from !== undefined && month < from.month)) continue
    // Dropped by retention, as its last head says.
    if (isEmpty && heads.get(month)?.dropped === true) continue
    if (total.verified >= limit) {
      next = { month, after: 0 }
      continue
    }
    const place = { month, token: token ?? undefined, after: from?.month === month ? from.after : 0 }
    const found = await verifyMonth(dependencies, place, known, limit - total.verified, add)
    total.verified += found.verified
    total.pending += found.pending
    total.erased += found.erased
    next = found.next
  }
  const newest = months.findLast(({ month }) => heads.get(month) !== undefined)
  return { problems, ...total, head: newest?.token ?? null, next }
}
