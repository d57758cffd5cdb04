import { isAddress } from '../../kit/client-address.ts'
import type { Queryable } from '../../platform/postgres.ts'
import type { Caller } from '../principal.ts'

/** The project that a write changes; with `grantedTeam`, the team that it grants the project to. */
type ChangedProject = { readonly changedProject: string; readonly grantedTeam?: string }

/**
 * What else a write is about: projects it writes into, generations and media it reads or refers to, and generations and
 * media it changes. A media item stands for its generation.
 */
type Resources = {
  readonly projects?: readonly string[]
  readonly generations?: readonly string[]
  readonly media?: readonly string[]
  readonly changedGenerations?: readonly string[]
  readonly changedMedia?: readonly string[]
}

export type DecisionSubjects = ChangedProject | Resources

type Signed = Pick<Caller, 'userId' | 'sessionId' | 'service'>

/**
 * The end of a statement that locks: for a service it says from where it calls, before the statement locks anything. So networks
 * of the key that were narrowed meanwhile count.
 */
const calledFrom = (tx: Queryable, { service }: Signed) => {
  if (service === undefined) return tx``
  const address = service.addressOf()
  return tx`from (select set_config('velro.client_address', ${isAddress(address) ? address : ''}, true)) as client`
}

/** See sql/functions/decision-locks.sql. False: session or account have ended. */
export const lockSignedIn = async (tx: Queryable, caller: Signed): Promise<boolean> => {
  const { userId, sessionId } = caller
  const [row] = await tx<{ signed_in: boolean }[]>`
    select lock_signed_in(${userId}, ${sessionId}) as signed_in ${calledFrom(tx, caller)}`
  return row?.signed_in === true
}

/** As `lockSignedIn`, and locks what decides whether the caller may do this write. One statement. */
export const lockForDecision = async (tx: Queryable, caller: Signed, subjects: DecisionSubjects): Promise<boolean> => {
  const { userId, sessionId } = caller
  if ('changedProject' in subjects) {
    const { changedProject, grantedTeam } = subjects
    const teams = grantedTeam === undefined ? [] : [grantedTeam]
    const [row] = await tx<{ signed_in: boolean }[]>`
      select lock_project_decision(${userId}, ${sessionId}, ${changedProject}, ${teams}::uuid[]) as signed_in
             ${calledFrom(tx, caller)}`
    return row?.signed_in === true
  }
  const { projects = [], generations = [], media = [], changedGenerations = [], changedMedia = [] } = subjects
  const [row] = await tx<{ signed_in: boolean }[]>`
    select lock_generation_decision(
             ${userId}, ${sessionId}, ${[...projects]}::uuid[], ${[...generations]}::uuid[], ${[...media]}::uuid[],
             ${[...changedGenerations]}::uuid[], ${[...changedMedia]}::uuid[]) as signed_in
             ${calledFrom(tx, caller)}`
  return row?.signed_in === true
}
