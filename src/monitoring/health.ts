import type { Clock } from '../kit/clock.ts'
import type { Aggregate } from './exchange.ts'
import type { ComponentState, Health } from './report-model.ts'
import { toInstances } from './reports.ts'

/** The state of a component, and why it is not `up`. */
export type Finding = { readonly state: ComponentState; readonly detail?: string | undefined }
export type Components = Readonly<Record<string, () => Finding>>

export const up: Finding = { state: 'up' }
export const off: Finding = { state: 'off' }
export const degraded = (detail: string): Finding => ({ state: 'degraded', detail })
export const down = (detail: string): Finding => ({ state: 'down', detail })

/** Without it the service can do no more than serve stale reads. */
const vital = 'postgres'

/**
 * The components of this instance, and since when each has its state. Reads memory alone. Call `observe` each second: `since` is
 * the time of the first look that found the state.
 */
export const createHealth = ({
  components,
  modeInForce,
  clock,
}: {
  components: Components
  modeInForce: () => Health['mode']
  clock: Pick<Clock, 'now'>
}) => {
  const states = new Map<string, { readonly state: ComponentState; readonly sinceMs: number }>()

  const look = (): Health['components'] =>
    Object.entries(components).map(([name, find]) => {
      const { state, detail } = find()
      const before = states.get(name)
      const sinceMs = before?.state === state ? before.sinceMs : clock.now()
      states.set(name, { state, sinceMs })
      return { name, state, since: new Date(sinceMs).toISOString(), detail: detail ?? null }
    })

  return {
    observe: (): void => void look(),
    read: (aggregate: Aggregate): Health => {
      const found = look()
      const isDown = found.some(({ name, state }) => name === vital && state === 'down')
      const isDegraded = found.some(({ state }) => state === 'down' || state === 'degraded')
      return {
        taken_at: new Date(clock.now()).toISOString(),
        instances: toInstances(aggregate),
        status: isDown ? 'down' : isDegraded ? 'degraded' : 'up',
        mode: modeInForce(),
        components: found,
      }
    },
  }
}

export type HealthView = ReturnType<typeof createHealth>
