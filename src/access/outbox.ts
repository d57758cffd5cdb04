import type { Log } from '../platform/log.ts'
import type { AccessEvent } from './bus.ts'
import type { FactKey } from './model.ts'
import { type OuterCache, outerTtlMs } from './outer-cache.ts'
import type { Standing } from './standing.ts'
import type { OutboxStore } from './store.ts'

/** How often what the outer cache has confirmed is written down. */
const flushMs = 100
const sweepMs = 2_000
/** What nobody has seen to for this long, its writer is gone. */
const orphanedMs = 2_000
/** By then nothing in the outer cache can be older than the change. */
const outlivedMs = 3 * outerTtlMs
const maxIds = 500
const maxSwept = 200
/** The name of no server. */
const nobody = '-'

/**
 * Sees to it that the outer cache forgets what was changed.
 *
 * Promise: an event stands, here and in Postgres, until the outer cache has confirmed it, whichever instance sees to that:
 * its writer at once, anybody when that is gone. An event that touched everything stands until nothing older than it can
 * be left. Waits on nobody's behalf.
 */
export type Outbox = {
  /** A change of this instance was committed. */
  take(event: AccessEvent): void
  /** Somebody removed these; `incarnation` is the server that was made to forget. */
  onConfirmed(ids: readonly string[], incarnation: string): void
  close(): Promise<void>
}

export const createOutbox = ({
  outer,
  standing,
  store,
  log,
}: {
  /** Undefined: there is none, and nothing to forget. */
  outer: OuterCache | undefined
  standing: Standing
  store: OutboxStore
  log: Log
}): Outbox => {
  /** Events, by the server that was made to forget them. */
  const forgotten = new Map<string, string[]>()
  let closed = false

  const note = (id: string, incarnation: string) => {
    const ids = forgotten.get(incarnation)
    if (ids === undefined) forgotten.set(incarnation, [id])
    else ids.push(id)
  }

  /** The server that has forgotten; undefined when none has for certain, or another has taken its place. */
  const makeForget = async (keys: readonly FactKey[]): Promise<string | undefined> => {
    if (outer === undefined) return nobody
    const { incarnation } = outer
    return (await outer.forget(keys)) && outer.incarnation === incarnation ? incarnation : undefined
  }

  const forget = async ({ id, touched }: AccessEvent): Promise<void> => {
    if (touched === 'everything') return
    const incarnation = await makeForget(touched)
    if (incarnation !== undefined) note(id, incarnation)
  }

  const flush = async (): Promise<void> => {
    for (const [incarnation, ids] of forgotten) {
      forgotten.delete(incarnation)
      while (ids.length > 0) await store.remove(ids.splice(0, maxIds), incarnation)
    }
  }

  /** Events whose rows are gone, and that we never heard were confirmed. */
  const settleMissed = async (): Promise<void> => {
    const held = standing.list()
    if (held.length === 0) return
    const left = await store.listIds()
    for (const event of held) if (!left.has(event.id)) await forgetHere(event)
  }

  const forgetHere = async ({ id, touched }: AccessEvent): Promise<void> => {
    if (touched === 'everything' || (await makeForget(touched)) !== undefined) standing.remove([id])
  }

  const sweep = async (): Promise<void> => {
    for (const event of await store.list(orphanedMs, maxSwept)) {
      if (event.ageMs > outlivedMs) note(event.id, outer?.incarnation ?? nobody)
      else await forget(event)
    }
    await flush()
    await settleMissed()
  }

  const every = (ms: number, work: () => Promise<void>) => {
    let busy = false
    return setInterval(() => {
      if (busy) return
      busy = true
      work()
        .catch((error) => log.debug({ error }, 'the outbox could not be seen to'))
        .finally(() => {
          busy = false
        })
    }, ms)
  }
  const timers = [every(flushMs, flush), every(sweepMs, sweep)]

  return {
    take: (event) => {
      standing.add(event)
      if (!closed) void forget(event)
    },
    onConfirmed: (ids, incarnation) => {
      const isOurs = outer === undefined || outer.incarnation === incarnation
      if (isOurs) return standing.remove(ids)
      // Another server was made to forget than the one we ask.
      const mentioned = new Set(ids)
      for (const event of standing.list()) if (mentioned.has(event.id)) void forgetHere(event)
    },
    close: async () => {
      closed = true
      for (const timer of timers) clearInterval(timer)
      await flush().catch(() => {})
    },
  }
}
