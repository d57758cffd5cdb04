import type { Clock } from '../kit/clock.ts'
import type { Mac } from '../platform/secrets.ts'
import type { Report } from './exchange.ts'
import { add, createSlotCounts, expire, type SlotCounts, slotMsOf } from './slot-counts.ts'

/** Slots for which sent units are remembered beyond a window: the slots of the server begin at other times than ours. */
const spareSlots = 3
/** Of the estimated time of the server. */
const clockSlackMs = 1_000

/** How long a claim is believed after it was made. */
export const claimLivesMs = (windowMs: number): number => windowMs + spareSlots * slotMsOf(windowMs) + clockSlackMs

type Sent = { readonly field: string; readonly counts: SlotCounts; pending: number }

/**
 * What this instance has sent to Redis of each key, and what the others claim to have sent.
 *
 * Counts in Redis are sums that no instance can authenticate, because a script makes them. So each instance also stores a claim
 * beside them: how many units it sent in the window at most, and when, authenticated under a key derived from SECRET.
 *
 * Guarantee: the units of a key that instances have counted are never more than the claims of all of them together. A greater
 * count was written by someone else. Unknown outcomes and units that were refused meanwhile make a claim greater, never smaller. A
 * copy of an earlier claim is believed for a window, as the units are for which it was made.
 */
export const createClaims = ({
  instance,
  mac,
  clock,
  maxKeys = 100_000,
}: {
  /** A name that no other instance has, nor this one after a restart. */
  instance: string
  mac: Mac
  clock: Pick<Clock, 'monotonic'>
  maxKeys?: number
}) => {
  let current = new Map<string, Sent>()
  let previous = new Map<string, Sent>()
  let made = 0

  const sentTo = (key: string): Sent => {
    let sent = current.get(key) ?? previous.get(key)
    if (sent === undefined) {
      made += 1
      // A key that was dropped gets another field: the claim in the earlier one still counts for the units sent under it.
      sent = { field: `@${instance}.${made}`, counts: createSlotCounts(), pending: 0 }
    }
    if (!current.has(key)) {
      if (current.size >= maxKeys) {
        previous = current
        current = new Map()
      }
      current.set(key, sent)
    }
    return sent
  }
  const slotOf = (windowMs: number) => Math.floor(clock.monotonic() / slotMsOf(windowMs))
  const atMost = ({ counts, pending }: Sent, windowMs: number): number => {
    expire(counts, slotOf(windowMs) - spareSlots)
    return counts.total + pending
  }
  const signed = (key: string, field: string, text: string) => `${key} ${field} ${text}`

  return {
    /** Before a report is sent to the hash `key`: the claim that goes with it. */
    make: (key: string, { admitted, cost, windowMs }: Report, serverNowMs: number): { field: string; text: string } => {
      const sent = sentTo(key)
      const { field, counts } = sent
      atMost(sent, windowMs)
      const units = admitted.reduce((sum, [, each]) => sum + Math.max(0, each), 0)
      if (units > 0) add(counts, slotOf(windowMs), units)
      sent.pending += cost
      const text = `${Math.round(serverNowMs)} ${atMost(sent, windowMs)}`
      return { field, text: `${text} ${mac.tag(signed(key, field, text))}` }
    },
    /** After its answer; `taken` is undefined where the outcome is unknown. */
    settle: (key: string, { cost, windowMs }: Report, taken: number | undefined): void => {
      const sent = sentTo(key)
      sent.pending = Math.max(0, sent.pending - cost)
      const units = taken ?? cost
      if (units > 0) add(sent.counts, slotOf(windowMs), units)
    },
    /** The most units that all instances may have counted. `others`: fields and texts of their claims in turns. */
    justified: (key: string, windowMs: number, others: readonly string[], serverNowMs: number): number => {
      const own = current.get(key) ?? previous.get(key)
      let units = own === undefined ? 0 : atMost(own, windowMs)
      for (let at = 0; at < others.length; at += 2) {
        const [field, stored] = [String(others[at]), String(others[at + 1])]
        const [, text = '', claimedAtMs, claimed, tag = ''] = /^((\d{1,16}) (\d{1,15})) (\S+)$/.exec(stored) ?? []
        const ageMs = serverNowMs - Number(claimedAtMs)
        const isRecent = ageMs <= claimLivesMs(windowMs) && ageMs >= -clockSlackMs
        if (isRecent && mac.isTagged(signed(key, field, text), tag)) units += Number(claimed)
      }
      return units
    },
  }
}
