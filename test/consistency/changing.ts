import { type Reply, send } from './asking.ts'
import { pick, type Scene, type State } from './fixture.ts'
import type { Instance } from './instances.ts'
import { type Loss, losses, type Stagehand, type Step } from './losses.ts'
import type { Witness } from './oracle.ts'
import type { Population } from './population.ts'
import type { Probes } from './probes.ts'

/** Longer than anybody believes what it remembers: by then the change is known, whether or not its call was answered. */
const settledAfterMs = 2_500
const retryMs = 50
const maxTries = 400

const isSuccess = ({ status }: Reply): boolean => status < 300
const isRefusal = ({ status }: Reply): boolean => status >= 400 && status < 500

/** Takes access away and gives it back, one scene at a time, and has every change looked at the moment it is answered. */
export const createChanging = ({
  instances,
  scenes,
  population,
  witness,
  probes,
}: {
  instances: readonly Instance[]
  scenes: readonly Scene[]
  population: Population
  witness: Witness
  probes: Probes
}) => {
  const anyThatResponds = async (): Promise<Instance> => {
    for (;;) {
      const instance = pick(instances.filter(({ responds }) => responds))
      if (instance !== undefined) return instance
      await Bun.sleep(1)
    }
  }

  const attempt = async (scene: Scene, name: string, step: Step, removes: boolean) => {
    const { history } = scene
    const before = history.state
    const announced = typeof step.to === 'function' ? undefined : step.to
    const after = (body: unknown): State => (typeof step.to === 'function' ? step.to(body) : step.to)
    const change = history.begin(name, performance.now(), announced)
    let doubtful = false
    for (let tries = 1; tries <= maxTries; tries += 1) {
      const instance = await anyThatResponds()
      const sentMs = performance.now()
      const phase = witness.phase
      const reply = await send(instance, step.as, step.method, step.path, step.body)
      const answeredMs = performance.now()
      if (reply !== undefined && (isSuccess(reply) || (doubtful && isRefusal(reply)))) {
        // Where an earlier try may have done it, this answer says nothing about who knows.
        if (doubtful) await Bun.sleep(settledAfterMs)
        else if (removes)
          witness.removals.push({
            name,
            atMs: sentMs - witness.startedMs,
            ms: answeredMs - sentMs,
            phase: phase === 'healthy' ? witness.phase : phase,
          })
        change.to = after(reply.body)
        change.where = `${instance.name}, try ${tries}, ${Math.round(answeredMs - sentMs)} ms`
        change.answeredMs = doubtful ? performance.now() : answeredMs
        await probes.afterChange(scene, before, change.to, change.answeredMs)
        return reply.body
      }
      if (reply !== undefined && isRefusal(reply)) witness.refused(instance, name, reply.status, sentMs)
      else {
        doubtful = true
        witness.counts.silent += 1
      }
      await Bun.sleep(retryMs)
    }
    throw new Error(`${name} could not be done`)
  }

  const hand: Stagehand = {
    population,
    act: (scene, name, step) => attempt(scene, name, step, false),
    appear: (scene, name, to) => {
      scene.history.begin(name, performance.now(), to).answeredMs = performance.now()
    },
  }

  const once = async (scene: Scene, { name, take, giveBack }: Loss) => {
    const before = scene.history.state
    const step = take(scene, hand)
    await probes.beforeLoss(scene, before, step.to as State)
    await attempt(scene, name, step, true)
    await giveBack(scene, hand, before)
  }

  /** One after the other, at most one each `everyMs`, until told to end. */
  return async (everyMs: number, goesOn: () => boolean): Promise<void> => {
    let next: Loss[] = []
    while (goesOn()) {
      const startedMs = performance.now()
      const scene = pick(scenes.filter(({ taken }) => !taken))
      if (next.length === 0) next = [...losses].sort(() => Math.random() - 0.5)
      scene.taken = true
      await once(scene, next.pop() as Loss)
      scene.taken = false
      await Bun.sleep(Math.max(0, everyMs - (performance.now() - startedMs)))
    }
  }
}
