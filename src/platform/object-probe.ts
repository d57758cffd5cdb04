import type { Clock } from '../kit/clock.ts'
import type { Log } from './log.ts'
import type { ObjectStore } from './objects.ts'

/** How long a finding is believed. A store that works is asked seldom, because a probe may cost money. */
const workingMs = 30_000
const failingMs = 5_000

/**
 * Whether objects can be stored, found out when it is asked for.
 *
 * Cost: concurrent calls share one probe, and a finding is reused for 30 s, or 5 s where the store fails. A call waits at
 * most `limitMs`; while a failing store is probed again it does not wait.
 */
export const createObjectProbe = ({
  objects,
  clock,
  log,
  limitMs = 1_000,
}: {
  objects: Pick<ObjectStore, 'probe'>
  clock: Pick<Clock, 'monotonic'>
  log: Log
  limitMs?: number
}) => {
  let works = true
  let failure: unknown
  let askAtMs = Number.NEGATIVE_INFINITY
  let probing: Promise<void> | undefined

  const settle = (error: unknown) => {
    const worked = works
    works = error === undefined
    failure = error
    askAtMs = clock.monotonic() + (works ? workingMs : failingMs)
    probing = undefined
    if (worked && !works) log.warn({ event: 'media.storage_unavailable', error }, 'media objects cannot be stored')
    if (!worked && works) log.info({ event: 'media.storage_available' }, 'media objects can be stored again')
  }
  const start = (): Promise<void> => {
    probing ??= objects.probe().then(
      () => settle(undefined),
      (error: unknown) => settle(error ?? new Error('The probe failed without an error')),
    )
    return probing
  }

  return {
    isWorking: async (): Promise<boolean> => {
      if (clock.monotonic() < askAtMs) return works
      const probe = start()
      if (!works) return false
      let timer: ReturnType<typeof setTimeout> | undefined
      const late = new Promise<false>((resolve) => {
        timer = setTimeout(() => resolve(false), limitMs)
      })
      try {
        return await Promise.race([probe.then(() => works), late])
      } finally {
        clearTimeout(timer)
      }
    },
    /** The error of a probe made now; undefined where objects can be stored. */
    findFailure: async (): Promise<unknown> => {
      await start()
      return failure
    },
  }
}

export type ObjectProbe = ReturnType<typeof createObjectProbe>
