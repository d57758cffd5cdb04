import { type Asked, ask } from './asking.ts'
import { expected, type Question } from './fixture.ts'
import type { Instance } from './instances.ts'

/** An answer that no state explains in which the thing may have been. */
export type Wrong = {
  readonly said: 'allow' | 'deny' | 'refusal'
  readonly instance: string
  readonly way: string
  readonly by: string
  readonly question: string
  /** The last change of the thing before it was asked, and of who asked. */
  readonly after: string
  readonly sinceMs: number
  readonly atMs: number
  readonly tookMs: number
  readonly phase: string
  /** What the same instance said about it, and from where, just afterwards. */
  afterwards?: string
}

export type Removal = { readonly name: string; readonly atMs: number; readonly ms: number; readonly phase: string }

export type Witness = {
  readonly startedMs: number
  /** What is being done to the servers. */
  phase: string
  readonly events: { readonly atMs: number; readonly what: string }[]
  readonly counts: { requests: number; checks: number; allows: number; denies: number; either: number; silent: number }
  readonly perTier: Record<string, number>
  readonly removals: Removal[]
  readonly wrong: Wrong[]
  tell(what: string): void
  /** Judges the answers of one request. */
  judge(questions: readonly Question[], asked: Asked): void
  /** A call was refused that had to be let through. */
  refused(instance: Instance, name: string, status: number, sentMs: number): void
}

/** Of more than so many it is enough to know how many. */
const detailed = 40
/** How often and how long the same is asked again. */
const maxLooks = 100
const lookEveryMs = 20

export const createWitness = (): Witness => {
  const startedMs = performance.now()
  const counts = { requests: 0, checks: 0, allows: 0, denies: 0, either: 0, silent: 0 }
  const wrong: Wrong[] = []
  const events: Witness['events'] = []
  const perTier: Record<string, number> = {}

  const report = (question: Question, { instance, way, sentMs, answeredMs }: Asked, said: boolean): Wrong => {
    const { asker, credential, about, userId, action, thing } = question
    const [changed, admitted] = [about.history.lastBefore(sentMs), asker.history.lastBefore(sentMs)]
    const last = asker === about || (changed?.answeredMs ?? 0) > (admitted?.answeredMs ?? 0) ? changed : admitted
    return {
      said: said ? 'allow' : 'deny',
      instance: instance.name,
      way,
      by: credential.kind,
      question: `scene ${about.number}: ${action} ${thing.type} ${thing.id} for ${userId}`,
      after: `${last?.name} (${last?.where})`,
      sinceMs: sentMs - (last?.answeredMs ?? 0),
      atMs: sentMs - startedMs,
      tookMs: answeredMs - sentMs,
      phase: witness.phase,
    }
  }

  const lookAgain = async (found: Wrong, question: Question, instance: Instance) => {
    const seen: string[] = []
    for (let looks = 0; looks < maxLooks; looks += 1) {
      const { answers, status, tier, answeredMs } = await ask(instance, 'explain', [question])
      const line = `${status} ${answers[0]} from ${tier}`
      if (seen.at(-1)?.endsWith(line) !== true) seen.push(`${Math.round(answeredMs - startedMs)} ms: ${line}`)
      await Bun.sleep(lookEveryMs)
    }
    found.afterwards = seen.join(', ')
  }

  const witness: Witness = {
    startedMs,
    phase: 'starting',
    events,
    counts,
    perTier,
    removals: [],
    wrong,
    tell: (what) => events.push({ atMs: performance.now() - startedMs, what }),
    judge: (questions, asked) => {
      counts.requests += 1
      if (asked.tier !== undefined) perTier[asked.tier] = (perTier[asked.tier] ?? 0) + 1
      for (const [index, question] of questions.entries()) {
        const said = asked.answers[index]
        if (said === undefined) {
          counts.silent += 1
          continue
        }
        counts.checks += 1
        counts[said ? 'allows' : 'denies'] += 1
        const due = expected(question, asked.sentMs, asked.answeredMs)
        if (due === undefined) counts.either += 1
        else if (due !== said) {
          const found = report(question, asked, said)
          wrong.push(found)
          if (wrong.length <= detailed) void lookAgain(found, question, asked.instance)
        }
      }
    },
    refused: (instance, name, status, sentMs) => {
      wrong.push({
        said: 'refusal',
        instance: instance.name,
        way: 'call',
        by: 'session',
        question: `${name}: ${status}`,
        after: '',
        sinceMs: 0,
        atMs: sentMs - startedMs,
        tookMs: performance.now() - sentMs,
        phase: witness.phase,
      })
    },
  }
  return witness
}
