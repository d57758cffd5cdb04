import { type Fixture, lostPermissions, pick, type Question, type State } from './fixture.ts'
import type { Instance } from './instances.ts'
import { type Endpoint, observe } from './observation.ts'
import type { Oracle } from './oracle.ts'

/** Sends the questions that a change decides to all instances, around the moment it is answered. */
export type Probes = {
  /** Loads the facts about to change into the memory of every instance. */
  beforeRemoval(fixture: Fixture, before: State, after: State): Promise<void>
  /** Sends at once; resolves when every responsive instance has answered. */
  afterChange(fixture: Fixture, before: State, after: State, answeredMs: number): Promise<void>
  /** Asks one instance about every change answered since. */
  checkRecentChanges(instance: Instance, sinceMs: number): Promise<void>
}

const perChange = 3
/** Each request to a frozen instance holds a connection, so their number is limited. */
const maxPending = 40
const maxRecent = 300

/** Where there are such: one question of a session, one of a service key, and one of reading with a session. */
const sampleQuestions = (questions: readonly Question[]): Question[] => {
  const ofKind = (kind: string) => questions.filter(({ credential }) => credential.kind === kind)
  const read = questions.filter(({ credential, action }) => credential.kind === 'session' && action === 'read')
  return [ofKind('session'), ofKind('key'), read]
    .filter((some) => some.length > 0)
    .map((some) => pick(some))
    .slice(0, perChange)
}

const endpointOf = ({ credential, action }: Question): Endpoint =>
  credential.kind === 'session' && action === 'read' ? pick(['get', 'check'] as const) : 'check'

export const createProbes = (instances: readonly Instance[], oracle: Oracle): Probes => {
  const pending = new Map<Instance, number>(instances.map((instance) => [instance, 0]))
  let recentChanges: { readonly atMs: number; readonly questions: readonly Question[] }[] = []

  const checkOn = async (instance: Instance, question: Question) => {
    pending.set(instance, (pending.get(instance) ?? 0) + 1)
    const observation = await observe(instance, endpointOf(question), [question])
    pending.set(instance, (pending.get(instance) ?? 0) - 1)
    oracle.judge([question], observation)
  }
  const checkOnAll = async (questions: readonly Question[]) => {
    const observation = instances.flatMap((instance) => {
      if (!instance.responds && (pending.get(instance) ?? 0) >= maxPending) return []
      const answers = Promise.all(questions.map((question) => checkOn(instance, question)))
      return instance.responds ? [answers] : []
    })
    await Promise.all(observation)
  }

  return {
    beforeRemoval: async (fixture, before, after) =>
      checkOnAll(sampleQuestions(lostPermissions(fixture, before, after))),
    afterChange: async (fixture, before, after, answeredMs) => {
      const changed = sampleQuestions([
        ...lostPermissions(fixture, before, after),
        ...lostPermissions(fixture, after, before),
      ])
      if (changed.length === 0) return
      recentChanges = [...recentChanges, { atMs: answeredMs, questions: changed }].slice(-maxRecent)
      await checkOnAll(changed)
    },
    checkRecentChanges: async (instance, sinceMs) => {
      const questions = recentChanges.filter(({ atMs }) => atMs >= sinceMs).flatMap((each) => each.questions)
      await Promise.all(questions.slice(-maxPending).map((question) => checkOn(instance, question)))
    },
  }
}
