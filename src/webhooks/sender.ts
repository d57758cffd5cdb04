import type { Clock } from '../kit/clock.ts'
import type { Log } from '../platform/log.ts'
import { type Attempt, retryForMs } from './attempt.ts'
import type { DeliveryStore, LeasedDelivery, UnderWay } from './delivery-store.ts'

/** Longest wait for an event that was just recorded. */
const pollMs = 1_000
/** Deliveries under way at once: of this sender, of one webhook, to one host, and of one team. */
const maxUnderWay = 16
const maxPerWebhook = 4
const maxPerHost = 8
const maxPerTeam = 4
/** Longer than an attempt, so that a delivery is never sent twice at once. */
const leaseMs = 60_000
const keepEventsMs = 30 * 86_400_000
/** A delivery that waited behind an earlier one is tried before it is given up with its webhook. */
const hopelessMs = retryForMs + 3_600_000
const purgedAtOnce = 10_000
/** How long closing waits for attempts under way. */
const closingMs = 2_000

/**
 * Sends events to webhooks.
 *
 * Guarantee: an event that was committed with its change is sent to each webhook that wanted it, at least once, until a response
 * of 2xx or for 24 hours; any instance sends. Within one webhook, events of one resource are sent in order, each once the one
 * before it has been answered or given up; other resources go on meanwhile. A webhook has at most 4 requests under way on an
 * instance, a team 4 with all its webhooks, and a host 8: so a slow receiver holds up no others, and many webhooks flood no
 * host. An event about access is sent no sooner than 1.25 leases after it was seen to be committed: a receiver that asks about
 * the access then gets an answer on the new facts.
 *
 * Pauses between attempts double from 5 seconds up to an hour, and are longer where Retry-After says so. After 5 failures in a
 * row a webhook is probed by one request at a time, at most every 5 minutes; when one succeeds, everything that waits for it is
 * sent. Degrades: the delivery of a killed instance is sent again a minute later, by another.
 */
export type Sender = {
  /** Polls now. */
  wake(): void
  purge(): Promise<void>
  /** Resolves when no poll and no attempt is under way. For tests. */
  idle(): Promise<void>
  /** Stops polling, and waits for attempts under way for up to 2 s. Those that take longer are repeated by another instance. */
  close(): Promise<void>
}

type Dependencies = {
  readonly store: DeliveryStore
  readonly attempt: Attempt
  /** How long an instance may hold old facts about a change, and how far the clock of this one may be ahead of Postgres. */
  readonly settleMs: number
  readonly clock: Clock
  readonly log: Log
}

export const createSender = ({ store, attempt, settleMs, clock, log }: Dependencies): Sender => {
  const underWay = {
    webhooks: new Map<string, number>(),
    hosts: new Map<string, number>(),
    teams: new Map<string, number>(),
  } satisfies UnderWay
  const stopped = new AbortController()
  const attempts = new Set<Promise<void>>()
  let polling: Promise<void> | undefined
  let pollAgain = false
  let closing = false

  const count = ({ webhook_id, host, team_id }: LeasedDelivery, change: 1 | -1): void => {
    const keys = [
      [underWay.webhooks, webhook_id],
      [underWay.hosts, host],
      [underWay.teams, team_id],
    ] as const
    for (const [counts, key] of keys) {
      if (key === null) continue
      const left = (counts.get(key) ?? 0) + change
      if (left === 0) counts.delete(key)
      else counts.set(key, left)
    }
  }

  const begin = (delivery: LeasedDelivery): void => {
    const { webhook_id } = delivery
    count(delivery, 1)
    const done = attempt(delivery, stopped.signal)
      // The lease expires, and the delivery is sent again.
      .catch((error) => log.debug({ webhook_id, error }, 'the result of a delivery could not be stored'))
      .finally(() => {
        count(delivery, -1)
        attempts.delete(done)
        poll()
      })
    attempts.add(done)
  }

  const sendDue = async () => {
    while (pollAgain && !closing) {
      pollAgain = false
      const limit = maxUnderWay - attempts.size
      if (limit === 0) return
      const nowMs = clock.now()
      const leased = await store.lease({
        now: new Date(nowMs),
        settleMs,
        leaseUntil: new Date(nowMs + leaseMs),
        limit,
        perWebhook: maxPerWebhook,
        perHost: maxPerHost,
        perTeam: maxPerTeam,
        underWay,
      })
      for (const delivery of leased) begin(delivery)
      if (leased.length > 0) pollAgain = true
    }
  }

  const poll = () => {
    pollAgain = true
    if (closing) return
    polling ??= sendDue()
      .catch((error) => log.debug({ error }, 'polling for events to deliver failed'))
      .finally(() => {
        polling = undefined
      })
  }

  const timer = setInterval(poll, pollMs)
  poll()

  return {
    wake: poll,
    purge: () => {
      const nowMs = clock.now()
      return store.purge({
        hopelessBefore: new Date(nowMs - hopelessMs),
        eventsBefore: new Date(nowMs - keepEventsMs),
        limit: purgedAtOnce,
      })
    },
    idle: async () => {
      while (polling !== undefined || attempts.size > 0) await Promise.all([polling, ...attempts])
    },
    close: async () => {
      clearInterval(timer)
      closing = true
      const abort = setTimeout(() => stopped.abort(), closingMs)
      // A poll under way may begin further attempts.
      await polling
      await Promise.all(attempts)
      clearTimeout(abort)
    },
  }
}
