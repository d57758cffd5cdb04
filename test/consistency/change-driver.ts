import { type AccessRemoval, accessRemovals, type Driver, type Step } from './access-removals.ts'
import { type Fixture, pick, type State } from './fixture.ts'
import type { Instance } from './instances.ts'
import { type Reply, send } from './observation.ts'
import type { Oracle } from './oracle.ts'
import type { Population } from './population.ts'
import type { Probes } from './probes.ts'

/** Longer than two leases: after this, every instance has applied a committed change, even one whose call was not answered. */
const visibleAfterMs = 2_500
const retryMs = 50
const maxTries = 1_200

const isSuccess = ({ status }: Reply): boolean => status < 300
const isRefusal = ({ status }: Reply): boolean => status >= 400 && status < 500

/** Removes access and restores it, one fixture at a time, and probes every instance the moment a change is answered. */
export const createChangeDriver = ({
  instances,
  fixtures,
  population,
  oracle,
  probes,
}: {
  instances: readonly Instance[]
  fixtures: readonly Fixture[]
  population: Population
  oracle: Oracle
  probes: Probes
}) => {
  const anyResponsive = async (): Promise<Instance> => {
    for (;;) {
      const instance = pick(instances.filter(({ responds }) => responds))
      if (instance !== undefined) return instance
      await Bun.sleep(1)
    }
  }

  const attempt = async (fixture: Fixture, name: string, step: Step, removes: boolean) => {
    const { history } = fixture
    const before = history.state
    const known = typeof step.to === 'function' ? undefined : step.to
    const after = (body: unknown): State => (typeof step.to === 'function' ? step.to(body) : step.to)
    const change = history.begin(name, performance.now(), known)
    let outcomeUnknown = false
    let last = 'no answer'
    for (let tries = 1; tries <= maxTries; tries += 1) {
      const instance = await anyResponsive()
      const sentMs = performance.now()
      const phase = oracle.phase
      const reply = await send(instance, step.as, step.method, step.path, step.body)
      const answeredMs = performance.now()
      last = reply === undefined ? 'no answer' : `${reply.status} ${JSON.stringify(reply.body)}`
      if (reply !== undefined && (isSuccess(reply) || (outcomeUnknown && isRefusal(reply)))) {
        // An earlier try may have committed the change, so this answer does not prove that every instance applied it.
        if (outcomeUnknown) await Bun.sleep(visibleAfterMs)
        else if (removes)
          oracle.removals.push({
            name,
            atMs: sentMs - oracle.startedMs,
            ms: answeredMs - sentMs,
            phase: phase === 'healthy' ? oracle.phase : phase,
          })
        change.to = after(reply.body)
        change.where = `${instance.name}, try ${tries}, ${Math.round(answeredMs - sentMs)} ms`
        change.answeredMs = outcomeUnknown ? performance.now() : answeredMs
        await probes.afterChange(fixture, before, change.to, change.answeredMs)
        return reply.body
      }
      if (reply !== undefined && isRefusal(reply)) oracle.refused(instance, name, reply.status, sentMs)
      else {
        outcomeUnknown = true
        oracle.counts.unanswered += 1
      }
      await Bun.sleep(retryMs)
    }
    throw new Error(`${name} did not succeed after ${maxTries} tries: ${last}`)
  }

  const driver: Driver = {
    population,
    act: (fixture, name, step) => attempt(fixture, name, step, false),
    record: (fixture, name, to) => {
      fixture.history.begin(name, performance.now(), to).answeredMs = performance.now()
    },
  }

  const once = async (fixture: Fixture, { name, remove, restore }: AccessRemoval) => {
    const before = fixture.history.state
    const step = remove(fixture, driver)
    await probes.beforeRemoval(fixture, before, step.to as State)
    await attempt(fixture, name, step, true)
    await restore(fixture, driver, before)
  }

  /** Removes and restores access, at most once each `everyMs`, while running. */
  return async (everyMs: number, isRunning: () => boolean): Promise<void> => {
    let next: AccessRemoval[] = []
    while (isRunning()) {
      const startedMs = performance.now()
      const fixture = pick(fixtures.filter(({ isChanging }) => !isChanging))
      if (next.length === 0) next = [...accessRemovals].sort(() => Math.random() - 0.5)
      fixture.isChanging = true
      await once(fixture, next.pop() as AccessRemoval)
      fixture.isChanging = false
      await Bun.sleep(Math.max(0, everyMs - (performance.now() - startedMs)))
    }
  }
}
