import type { AccountFact } from './facts/account.ts'
import type { ModeFact } from './facts/mode.ts'
import type { ResourceFacts } from './facts/resource-walk.ts'
import { type Finding, finding } from './findings.ts'
import { type Action, generationOwnerActions, has, ownerActions, publicActions } from './matrix.ts'

/** The facts of one question. */
export type Facts = ResourceFacts & {
  readonly userId: string
  readonly account: AccountFact | undefined
  /** Whether a child of the generation is to be created. */
  readonly deriving?: boolean
  /** As it was together with the other facts. The caller makes a circumstance of it; see `circumstancesIn`. */
  readonly mode?: ModeFact | undefined
}

type Rule = (facts: Facts, action: Action) => Finding

const inactive = {
  suspended: finding('deny', 'account.suspended'),
  deleted: finding('deny', 'account.deleted'),
  blocked: finding('deny', 'account.blocked'),
} as const
const unknownAccount = finding('deny', 'account.unknown')
const accountActive = finding('abstain', 'account.active')

/** Rule 1: an account that is not active may do nothing. */
export const account: Rule = ({ account: fact }) => {
  if (fact === undefined) return unknownAccount
  return fact.status === 'active' ? accountActive : inactive[fact.status]
}

const uploader = finding('allow', 'ownership.media_owner')
const generationOwner = finding('allow', 'ownership.generation_owner')
const projectOwner = finding('allow', 'ownership.project_owner')
const notOwner = finding('abstain', 'ownership.none')
const notForOwner = finding('abstain', 'ownership.action_not_included')

/**
 * Rules 2, 3 and 5: the owner of a project may do everything in it. The owner of a generation may do everything to it but
 * admin, in any project. The uploader of a picture may do the same, and no other user may do anything.
 */
export const ownership: Rule = ({ userId, project, generation, media }, action) => {
  if (media?.generationId === null) {
    if (media.ownerId !== userId) return notOwner
    return has(generationOwnerActions, action) ? uploader : notForOwner
  }
  if (generation?.ownerId === userId) return has(generationOwnerActions, action) ? generationOwner : notForOwner
  if (project?.ownerId !== userId) return notOwner
  return has(ownerActions, action) ? projectOwner : notForOwner
}

/** For the owner of a generation ownership decides alone: grants and visibility of the project do not apply. */
const decidedByOwnership = ({ userId, generation }: Facts): boolean => generation?.ownerId === userId

const granted = finding('allow', 'team.granted')
const notIncluded = finding('abstain', 'team.action_not_included')
const noTeam = finding('abstain', 'team.none')

/**
 * Rule 2: the actions granted to the user's teams, limited by the user's role in each. A private project suspends its
 * grants. The finding is then the same as without a grant, so that a private project reads like one that does not exist.
 */
export const teamAccess: Rule = (facts, action) => {
  const { project, grant = 0, userId } = facts
  const applies = project !== undefined && project.visibility !== 'private' && project.ownerId !== userId
  if (!applies || grant === 0 || decidedByOwnership(facts)) return noTeam
  return has(grant, action) ? granted : notIncluded
}

const publicProject = finding('allow', 'visibility.public')
const publicNotIncluded = finding('abstain', 'visibility.action_not_included')
const notPublic = finding('abstain', 'visibility.not_public')

/** Rule 2: every signed-in user may read and download a public project. */
export const visibility: Rule = (facts, action) => {
  if (facts.project?.visibility !== 'public' || decidedByOwnership(facts)) return notPublic
  return has(publicActions, action) ? publicProject : publicNotIncluded
}

const notDeriving = finding('abstain', 'lineage.nothing_derived')
const derivable = finding('abstain', 'lineage.derivable')
const notDerivable = finding('deny', 'lineage.derivatives_not_allowed')

/** Rule 4: a child of another user's generation needs a project that allows derivatives. The rules above decide reading. */
export const lineage: Rule = (facts) => {
  if (facts.deriving !== true) return notDeriving
  return decidedByOwnership(facts) || facts.project?.allowDerivatives === true ? derivable : notDerivable
}

const noMedia = finding('abstain', 'media.not_asked')
const uploaded = finding('abstain', 'media.brought')
const finished = finding('abstain', 'media.generation_completed')
const unfinished = finding('deny', 'media.generation_not_completed')

/** Rule 5: media follow their generation, once it is completed. Uploads have none. */
export const media: Rule = ({ media: fact, generation }) => {
  if (fact === undefined) return noMedia
  if (fact.generationId === null) return uploaded
  return generation?.status === 'completed' ? finished : unfinished
}
