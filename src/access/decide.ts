import { type Action, type ActionSet, every, type Facts, has, setOf } from './model.ts'

/** What one rule says to one question. A deny ends the matter; without a deny, one allow is enough; else it is no. */
export type Finding = {
  readonly verdict: 'allow' | 'deny' | 'abstain' | 'skipped'
  readonly reason: string
}

type Rule = (facts: Facts, action: Action) => Finding

const finding = (verdict: Finding['verdict'], reason: string): Finding => Object.freeze({ verdict, reason })

const inactive = {
  suspended: finding('deny', 'account.suspended'),
  deleted: finding('deny', 'account.deleted'),
} as const
const unknownAccount = finding('deny', 'account.unknown')
const standing = finding('abstain', 'account.active')

/** Rule 1: an account that is not active may do nothing. */
export const account: Rule = ({ account: fact }) => {
  if (fact === undefined) return unknownAccount
  return fact.status === 'active' ? standing : inactive[fact.status]
}

const generationOwner = finding('allow', 'ownership.generation_owner')
const projectOwner = finding('allow', 'ownership.project_owner')
const notOwner = finding('abstain', 'ownership.none')
const notForOwner = finding('abstain', 'ownership.action_not_included')

/** The owner of a generation may do everything to it but administer it: that belongs to projects. */
const generationOwnerSet: ActionSet = every & ~setOf('admin')

/** Rules 2 and 3: the owner of a project may do everything in it; of a generation, everything but admin, wherever it is. */
export const ownership: Rule = ({ userId, project, generation }, action) => {
  if (generation?.ownerId === userId) return has(generationOwnerSet, action) ? generationOwner : notForOwner
  return project?.ownerId === userId ? projectOwner : notOwner
}

const publicSet: ActionSet = setOf('read', 'download')
const publicProject = finding('allow', 'visibility.public')
const publicNotIncluded = finding('abstain', 'visibility.action_not_included')
const notPublic = finding('abstain', 'visibility.not_public')

/** Rule 2: a public project may be read and downloaded by everyone who is signed in. Its own generations go by rule 3. */
export const visibility: Rule = ({ userId, project, generation }, action) => {
  if (project?.visibility !== 'public' || generation?.ownerId === userId) return notPublic
  return has(publicSet, action) ? publicProject : publicNotIncluded
}
