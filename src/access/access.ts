import { type DecisionAudit, unrecorded } from '../audit/decisions.ts'
import { Fault } from '../fault.ts'
import type { Clock } from '../kit/clock.ts'
import type { Deadline } from '../kit/deadline.ts'
import type { MaybePromise } from '../kit/maybe-promise.ts'
import type { DecisionCounters } from './cache/decision-counters.ts'
import {
  createDecisionFacts,
  type DecisionFacts,
  type OnDecision,
  type OnMemoryRead,
  type Question,
} from './cache/decision-facts.ts'
import type { FactCache } from './cache/fact-cache.ts'
import {
  type Explanation,
  explainDecision,
  markDegraded,
  notRecorded,
  type RecordDecision,
  redactDecision,
} from './explanation.ts'
import { type Callers, createCallers } from './guard/callers.ts'
import { type Decision, decide } from './policy/decide.ts'
import type { MediaFact } from './policy/facts/media.ts'
import type { Circumstances } from './policy/findings.ts'
import type { Action, ResourceRef } from './policy/matrix.ts'
import { circumstancesIn, lockdownReason as lockdown } from './policy/modes.ts'
import { modeIn, type OwnMode, ownNormalMode } from './policy/restrictions.ts'
import type { Facts } from './policy/rules.ts'
import type { Caller } from './principal.ts'

/**
 * Decides whether a user may do an action on a resource, and authenticates people and services.
 *
 * Guarantee: default deny. The facts of one decision were all valid together at one moment between the call and its answer.
 *
 * Cost, for each call: no statement where memory has a lease and every fact, else at most one for any number of misses, and
 * more only when invalidations arrive in between. A route with `may` makes two calls: `authenticate` prefetches the facts
 * that `require` then finds in memory. Without a lease, or with the tier `l1` off, memory is not read, and each call loads
 * its facts again: two statements.
 *
 * Degrades: while Postgres is down for every instance and the lease has ended, callers are authenticated and `read` and
 * `download` decided on stale facts, which memory held while the lease lasted (see `StaleReads`). These decisions are marked.
 * Any other action is refused with `database.unavailable`, and so is every call whose facts are not all in memory.
 */
export type Access = Callers & {
  /** `circumstances` are those of the request, without the mode: that is a fact, read together with the others. */
  decide(
    userId: string,
    action: Action,
    ref: ResourceRef,
    deadline: Deadline,
    circumstances?: Circumstances,
  ): MaybePromise<Decision>
  /**
   * The decisions in the order of the questions, all on facts that were valid together. If the facts are stale, one question
   * about an action other than `read` and `download` refuses them all with `database.unavailable`. No promise where memory
   * has every fact of all of them: facts found before one that is missing are not used.
   */
  decideMany(
    questions: readonly Question[],
    deadline: Deadline,
    circumstances?: Circumstances,
  ): MaybePromise<Decision[]>
  /**
   * The decision, and the verdict, reason, tier and time of each of the ten layers. `allowed` and `reason` are redacted, the
   * layers are not: before a person sees them, call `redactExplanation`. `record` is given the decision, once.
   */
  explain(
    userId: string,
    action: Action,
    ref: ResourceRef,
    deadline: Deadline,
    circumstances?: Circumstances,
    record?: RecordDecision,
  ): MaybePromise<Explanation>
  /**
   * Resolves if the caller may do the action. Otherwise throws 404 where the caller may not read the resource, as if the
   * resource did not exist, and 403 where the caller may read it.
   */
  require(caller: Caller, action: Action, ref: ResourceRef, deadline: Deadline): Promise<void>
  /** As `require`, for media; resolves to the facts of the media. */
  requireMedia(
    caller: Pick<Caller, 'userId' | 'circumstances'>,
    action: Action,
    id: string,
    deadline: Deadline,
  ): Promise<MediaFact>
  /**
   * The facts of those media on which the user may do the action, in the order of the ids; undefined for the others. At most one
   * statement for all of them.
   */
  findMedia(
    userId: string,
    action: Action,
    ids: readonly string[],
    deadline: Deadline,
  ): MaybePromise<(MediaFact | undefined)[]>
  /**
   * Resolves if the caller may derive a generation from this one. Otherwise throws 404 where the caller may not read the
   * generation, and `generation.derivatives_not_allowed` where the caller may read it.
   */
  requireDerivation(caller: Caller, generationId: string, deadline: Deadline): Promise<void>
}

const notFound = {
  project: 'project.not_found',
  generation: 'generation.not_found',
  media: 'media.not_found',
} as const

/** Decisions under the mode of the service, which is one of the facts, and of this instance. */
const createDeciding = (ownMode: OwnMode) => {
  const withMode = ({ mode }: Pick<Facts, 'mode'>, given: Circumstances | undefined): Circumstances =>
    circumstancesIn(modeIn(mode, ownMode), given)
  return {
    withMode,
    decideIn: (facts: Facts, action: Action, given: Circumstances | undefined): Decision =>
      decide(facts, action, withMode(facts, given)),
    redacted: (facts: Facts, action: Action, given: Circumstances | undefined): Decision =>
      redactDecision(facts, action, withMode(facts, given)),
  }
}

/** Lets requests in or refuses them, and records that. */
const createRequirements = (
  decisionFacts: DecisionFacts,
  decisionAudit: DecisionAudit,
  { decideIn, redacted }: ReturnType<typeof createDeciding>,
): Pick<Access, 'require' | 'requireMedia' | 'requireDerivation'> => {
  /** `action` decides only whether stale facts suffice. */
  const factsOf = (userId: string, action: Action, ref: ResourceRef, deadline: Deadline): MaybePromise<Facts> =>
    decisionFacts.peek(userId, ref) ?? decisionFacts.gather(userId, action, ref, deadline).then(({ facts }) => facts)

  const requireFacts = async (
    caller: Pick<Caller, 'userId' | 'circumstances'>,
    action: Action,
    ref: ResourceRef,
    deadline: Deadline,
  ): Promise<Facts> => {
    const { userId, circumstances } = caller
    const facts = await factsOf(userId, action, ref, deadline)
    const decision = redacted(facts, action, circumstances)
    decisionAudit.record(decision, caller, userId, action, ref, deadline)
    if (decision.allowed) return facts
    if (decision.reason === lockdown) throw new Fault('mode.lockdown')
    throw new Fault(decideIn(facts, 'read', circumstances).allowed ? 'access.denied' : notFound[ref.type])
  }

  return {
    require: async (caller, action, ref, deadline) => {
      await requireFacts(caller, action, ref, deadline)
    },
    requireMedia: async (caller, action, id, deadline) => {
      const { media } = await requireFacts(caller, action, { type: 'media', id }, deadline)
      if (media === undefined) throw new Fault('media.not_found')
      return media
    },
    requireDerivation: async (caller, generationId, deadline) => {
      // Deriving creates, so stale facts do not suffice. It needs `read` on the parent, under the rule for `deriving`.
      const ref = { type: 'generation', id: generationId } as const
      const { userId, circumstances } = caller
      const facts = await factsOf(userId, 'create', ref, deadline)
      const decision = decideIn({ ...facts, deriving: true }, 'read', circumstances)
      decisionAudit.record(decision, caller, userId, 'read', ref, deadline)
      if (decision.allowed) return
      if (decision.reason === lockdown) throw new Fault('mode.lockdown')
      const isReadable = decideIn(facts, 'read', circumstances).allowed
      throw new Fault(isReadable ? 'generation.derivatives_not_allowed' : 'generation.not_found')
    },
  }
}

export const createAccess = ({
  facts: factCache,
  clock,
  decisionCounters,
  ownMode = ownNormalMode,
  verifiedOnly = false,
  onServiceKeyUsed = () => {},
  onDecision = () => {},
  onMemoryRead = () => {},
  decisionAudit = unrecorded,
}: {
  facts: FactCache
  clock: Clock
  decisionCounters: DecisionCounters
  ownMode?: OwnMode
  /** Services act only for users whose e-mail address is verified, because others cannot sign in. */
  verifiedOnly?: boolean
  onServiceKeyUsed?: (keyId: string) => void
  onDecision?: OnDecision
  onMemoryRead?: OnMemoryRead
  /** Records the decisions that let requests in or refuse them. */
  decisionAudit?: DecisionAudit
}): Access => {
  const decisionFacts = createDecisionFacts({ facts: factCache, clock, decisionCounters, onDecision, onMemoryRead })
  const deciding = createDeciding(ownMode)
  const { withMode, decideIn, redacted } = deciding
  const allowedMedia = (all: readonly Facts[], action: Action): (MediaFact | undefined)[] =>
    all.map((facts) => (decideIn(facts, action, undefined).allowed ? facts.media : undefined))

  return {
    ...createCallers({ facts: factCache, clock, decisionCounters, ownMode, verifiedOnly, onServiceKeyUsed }),
    ...createRequirements(decisionFacts, decisionAudit, deciding),
    decide: (userId, action, ref, deadline, circumstances) => {
      const known = decisionFacts.peek(userId, ref)
      if (known !== undefined) return redacted(known, action, circumstances)
      return decisionFacts
        .gather(userId, action, ref, deadline)
        .then(({ facts, gathered }) => markDegraded(redacted(facts, action, circumstances), gathered))
    },
    decideMany: (questions, deadline, circumstances) => {
      const decideAt = (facts: Facts, at: number) => redacted(facts, (questions[at] as Question).action, circumstances)
      const known = decisionFacts.peekAll(questions)
      if (known !== undefined) return known.map(decideAt)
      return decisionFacts
        .gatherAll(questions, deadline)
        .then(({ facts: all, gathered }) => all.map((facts, at) => markDegraded(decideAt(facts, at), gathered)))
    },
    explain: (userId, action, ref, deadline, given, record = notRecorded) => {
      const startedMs = clock.monotonic()
      const known = decisionFacts.peekWithAge(userId, ref)
      if (known !== undefined) {
        const { facts, ageMs } = known
        const question = { facts, action, circumstances: withMode(facts, given) }
        return explainDecision(clock, question, { tier: 'l1', ageMs, startedMs }, record)
      }
      return decisionFacts.gather(userId, action, ref, deadline).then(({ facts, gathered }) => {
        const { tier, ageMs } = gathered
        const question = { facts, action, circumstances: withMode(facts, given) }
        return markDegraded(explainDecision(clock, question, { tier, ageMs, startedMs }, record), gathered)
      })
    },
    findMedia: (userId, action, ids, deadline) => {
      const questions = ids.map((id) => ({ userId, action, resource: { type: 'media', id } }) as const)
      const known = decisionFacts.peekAll(questions)
      if (known !== undefined) return allowedMedia(known, action)
      return decisionFacts.gatherAll(questions, deadline).then(({ facts }) => allowedMedia(facts, action))
    },
  }
}
