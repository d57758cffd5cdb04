import { ask, type Ways } from './asking.ts'
import { lost, pick, type Question, type Scene, type State } from './fixture.ts'
import type { Instance } from './instances.ts'
import type { Witness } from './oracle.ts'

/** The questions that a change is about, put to all instances around the moment it is answered. */
export type Probes = {
  /** So that every instance remembers what is about to change. */
  beforeLoss(scene: Scene, before: State, after: State): Promise<void>
  /** At once; resolves when those have answered that can. */
  afterChange(scene: Scene, before: State, after: State, answeredMs: number): Promise<void>
  /** Asks one instance about everything that changed lately. */
  askAboutLately(instance: Instance, sinceMs: number): Promise<void>
}

const perChange = 3
/** A frozen instance keeps a connection for each; there is a limit to those. */
const maxPending = 40
const maxLately = 300

/** One way each of asking as a person and as a service, if there are, and others at random. */
const choose = (questions: readonly Question[]): Question[] => {
  const ofKind = (kind: string) => questions.filter(({ credential }) => credential.kind === kind)
  const read = questions.filter(({ credential, action }) => credential.kind === 'session' && action === 'read')
  return [ofKind('session'), ofKind('key'), read]
    .filter((some) => some.length > 0)
    .map((some) => pick(some))
    .slice(0, perChange)
}

const wayOf = ({ credential, action }: Question): Ways =>
  credential.kind === 'session' && action === 'read' ? pick(['get', 'check'] as const) : 'check'

export const createProbes = (instances: readonly Instance[], witness: Witness): Probes => {
  const pending = new Map<Instance, number>(instances.map((instance) => [instance, 0]))
  let lately: { readonly atMs: number; readonly questions: readonly Question[] }[] = []

  const askOne = async (instance: Instance, question: Question) => {
    pending.set(instance, (pending.get(instance) ?? 0) + 1)
    const asked = await ask(instance, wayOf(question), [question])
    pending.set(instance, (pending.get(instance) ?? 0) - 1)
    witness.judge([question], asked)
  }
  const askAll = async (questions: readonly Question[]) => {
    const asked = instances.flatMap((instance) => {
      if (!instance.responds && (pending.get(instance) ?? 0) >= maxPending) return []
      const answers = Promise.all(questions.map((question) => askOne(instance, question)))
      return instance.responds ? [answers] : []
    })
    await Promise.all(asked)
  }

  return {
    beforeLoss: async (scene, before, after) => askAll(choose(lost(scene, before, after))),
    afterChange: async (scene, before, after, answeredMs) => {
      const changed = choose([...lost(scene, before, after), ...lost(scene, after, before)])
      if (changed.length === 0) return
      lately = [...lately, { atMs: answeredMs, questions: changed }].slice(-maxLately)
      await askAll(changed)
    },
    askAboutLately: async (instance, sinceMs) => {
      const questions = lately.filter(({ atMs }) => atMs >= sinceMs).flatMap((each) => each.questions)
      await Promise.all(questions.slice(-maxPending).map((question) => askOne(instance, question)))
    },
  }
}
