import { expected, type Question } from './fixture.ts'
import type { Instance } from './instances.ts'
import { type Observation, observe } from './observation.ts'

/** An answer that no possible state of its fixtures explains. */
export type Wrong = {
  readonly answer: 'allow' | 'deny' | 'refusal' | 'name'
  readonly instance: string
  readonly endpoint: string
  readonly by: string
  readonly question: string
  /** The last change before the question: of the resource's fixture or of the credential's. */
  readonly after: string
  readonly sinceMs: number
  readonly atMs: number
  readonly tookMs: number
  readonly phase: string
  /** The answers of the same instance in the two seconds after, with their tiers. */
  afterwards?: string
}

export type Removal = { readonly name: string; readonly atMs: number; readonly ms: number; readonly phase: string }

/** Judges every answer of a storm by the states its fixtures may have had while it was asked. */
export type Oracle = {
  readonly startedMs: number
  /** The fault being injected. */
  phase: string
  readonly events: { readonly atMs: number; readonly what: string }[]
  readonly counts: {
    requests: number
    checks: number
    allows: number
    denies: number
    ambiguous: number
    unanswered: number
    /** Reads of a name that was changed. */
    names: number
  }
  readonly perTier: Record<string, number>
  readonly removals: Removal[]
  readonly wrong: Wrong[]
  logEvent(what: string): void
  /** Compares the answers of one request with the possible states. */
  judge(questions: readonly Question[], observation: Observation): void
  /** Records a change that was refused although its caller had the permission. */
  refused(instance: Instance, name: string, status: number, sentMs: number): void
  /** Records a name that is older than one whose change was answered before the question. */
  staleName(instance: Instance, shown: number, due: number, sentMs: number): void
}

/** Wrong answers observed in detail; the others are only counted. */
const maxDetailed = 40
/** After a wrong answer the same question is sent again, this often and at this interval. */
const maxObservations = 100
const observeEveryMs = 20

export const createOracle = (): Oracle => {
  const startedMs = performance.now()
  const counts = { requests: 0, checks: 0, allows: 0, denies: 0, ambiguous: 0, unanswered: 0, names: 0 }
  const wrong: Wrong[] = []
  const events: Oracle['events'] = []
  const perTier: Record<string, number> = {}

  const report = (
    question: Question,
    { instance, endpoint, sentMs, answeredMs }: Observation,
    answer: boolean,
  ): Wrong => {
    const { credentialFixture, credential, resourceFixture, userId, action, resource } = question
    const [changed, admitted] = [
      resourceFixture.history.lastBefore(sentMs),
      credentialFixture.history.lastBefore(sentMs),
    ]
    const last =
      credentialFixture === resourceFixture || (changed?.answeredMs ?? 0) > (admitted?.answeredMs ?? 0)
        ? changed
        : admitted
    return {
      answer: answer ? 'allow' : 'deny',
      instance: instance.name,
      endpoint,
      by: credential.kind,
      question: `fixture ${resourceFixture.number}: ${action} ${resource.type} ${resource.id} for ${userId}`,
      after: `${last?.name} (${last?.where})`,
      sinceMs: sentMs - (last?.answeredMs ?? 0),
      atMs: sentMs - startedMs,
      tookMs: answeredMs - sentMs,
      phase: oracle.phase,
    }
  }

  const observeRepeatedly = async (found: Wrong, question: Question, instance: Instance) => {
    const seen: string[] = []
    for (let looks = 0; looks < maxObservations; looks += 1) {
      const { answers, status, tier, answeredMs } = await observe(instance, 'explain', [question])
      const line = `${status} ${answers[0]} from ${tier}`
      if (seen.at(-1)?.endsWith(line) !== true) seen.push(`${Math.round(answeredMs - startedMs)} ms: ${line}`)
      await Bun.sleep(observeEveryMs)
    }
    found.afterwards = seen.join(', ')
  }

  const seenBy = (instance: Instance, sentMs: number) => ({
    instance: instance.name,
    by: 'session',
    after: '',
    sinceMs: 0,
    atMs: sentMs - startedMs,
    tookMs: performance.now() - sentMs,
    phase: oracle.phase,
  })

  const oracle: Oracle = {
    startedMs,
    phase: 'starting',
    events,
    counts,
    perTier,
    removals: [],
    wrong,
    logEvent: (what) => events.push({ atMs: performance.now() - startedMs, what }),
    judge: (questions, observation) => {
      counts.requests += 1
      if (observation.tier !== undefined) perTier[observation.tier] = (perTier[observation.tier] ?? 0) + 1
      for (const [index, question] of questions.entries()) {
        const answer = observation.answers[index]
        if (answer === undefined) {
          counts.unanswered += 1
          continue
        }
        counts.checks += 1
        counts[answer ? 'allows' : 'denies'] += 1
        const due = expected(question, observation.sentMs, observation.answeredMs)
        if (due === undefined) counts.ambiguous += 1
        else if (due !== answer) {
          const found = report(question, observation, answer)
          wrong.push(found)
          if (wrong.length <= maxDetailed) void observeRepeatedly(found, question, observation.instance)
        }
      }
    },
    refused: (instance, name, status, sentMs) => {
      wrong.push({ ...seenBy(instance, sentMs), answer: 'refusal', endpoint: 'call', question: `${name}: ${status}` })
    },
    staleName: (instance, shown, due, sentMs) => {
      const question = `name ${shown} instead of ${due}`
      wrong.push({ ...seenBy(instance, sentMs), answer: 'name', endpoint: 'me', question })
    },
  }
  return oracle
}
