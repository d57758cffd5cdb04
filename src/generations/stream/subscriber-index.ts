import type { RecheckedPermission } from '../../access/permission-recheck.ts'
import { type FactKey, isWhole, partOf } from '../../access/policy/facts/model.ts'
import { Fault } from '../../fault.ts'

type Listed = { readonly generationId: string; readonly right: RecheckedPermission }

/** Who is there, found by what concerns them. Bounded, for each session, for each person and in all. */
export type Roster<S extends Listed> = {
  /** Throws a fault where there is no room for one more of this session or person. */
  checkRoom(right: RecheckedPermission): void
  add(one: S): void
  /** False: it was gone already. */
  remove(one: S): boolean
  /** Whom a change to this fact concerns; of projects nobody knows, so those are not answered for. */
  concerned(fact: FactKey): readonly S[]
  all(): readonly S[]
  readonly size: number
}

const factsOf = ({ generationId, right: { sessionId, userId } }: Listed): FactKey[] => [
  `session:${sessionId}`,
  `account:${userId}`,
  `generation:${generationId}`,
]

type Limits = { readonly perSession: number; readonly perPerson: number; readonly perInstance: number }

export const createRoster = <S extends Listed>(limits: Limits): Roster<S> => {
  const everybody = new Set<S>()
  const byFact = new Map<FactKey, Set<S>>()
  return {
    checkRoom: ({ sessionId, userId }) => {
      if (everybody.size >= limits.perInstance) {
        throw new Fault('generation.streams_full', { extensions: { limit: limits.perInstance } })
      }
      const ofSession = byFact.get(`session:${sessionId}`)?.size ?? 0
      const ofPerson = byFact.get(`account:${userId}`)?.size ?? 0
      if (ofSession >= limits.perSession) {
        throw new Fault('generation.too_many_streams', { extensions: { limit: limits.perSession } })
      }
      if (ofPerson >= limits.perPerson) {
        throw new Fault('generation.too_many_streams', { extensions: { limit: limits.perPerson } })
      }
    },
    add: (one) => {
      everybody.add(one)
      for (const fact of factsOf(one)) {
        const those = byFact.get(fact)
        if (those === undefined) byFact.set(fact, new Set([one]))
        else those.add(one)
      }
    },
    remove: (one) => {
      for (const fact of factsOf(one)) {
        const those = byFact.get(fact)
        those?.delete(one)
        if (those?.size === 0) byFact.delete(fact)
      }
      return everybody.delete(one)
    },
    concerned: (fact) => {
      // What was granted to a person concerns what that person watches.
      const whole = partOf(fact)?.whole ?? fact
      const key: FactKey = isWhole(whole) ? `account:${whole.slice(whole.indexOf(':') + 1)}` : fact
      return [...(byFact.get(key) ?? [])]
    },
    all: () => [...everybody],
    get size() {
      return everybody.size
    },
  }
}
