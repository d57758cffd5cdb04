import type { ActionSet, accountRoles, accountStatuses, GenerationStatus, plans, Scope, Visibility } from '../matrix.ts'

/** What a decision needs to know, and nothing else of the rows it comes from. */
export type SessionFact = { readonly userId: string; readonly ended: boolean; readonly expiresAtMs: number }
export type AccountFact = {
  readonly status: (typeof accountStatuses)[number]
  readonly role: (typeof accountRoles)[number]
  readonly plan: (typeof plans)[number]
}
export type ProjectFact = {
  readonly ownerId: string
  readonly visibility: Visibility
  readonly allowDerivatives: boolean
}
/** What one person may do on one project by owning it or through teams; what is public comes on top. */
export type GrantFact = ActionSet
/**
 * All that one person may do through teams on projects of others, by project: what is not in it is nothing, so it answers
 * for every project at once, `except` for those where something changed since. It says `many` where there are more than
 * `maxGrants`: then each project is a fact of its own.
 */
export type GrantsFact =
  | { readonly granted: Readonly<Record<string, ActionSet>>; readonly except?: readonly string[] }
  | 'many'
export const maxGrants = 200
export type ServiceKeyFact = {
  /** SHA-256 of the secret part, base64url. */
  readonly secretHash: string
  readonly scopes: readonly Scope[]
  readonly live: boolean
  readonly expiresAtMs: number | null
}
export type GenerationFact = {
  readonly ownerId: string
  readonly projectId: string | null
  readonly status: GenerationStatus
}

/** What came of a generation, or was brought by its owner. Nothing of it ever changes but that it goes. */
export type MediaFact = {
  readonly ownerId: string
  /** Null for what was brought. */
  readonly generationId: string | null
  readonly sha256: string
  readonly contentType: string
}

export type Fact = {
  session: SessionFact
  account: AccountFact
  project: ProjectFact
  generation: GenerationFact
  media: MediaFact
  grant: GrantFact
  grants: GrantsFact
  service_key: ServiceKeyFact
}
export type FactKind = keyof Fact

/**
 * Names one fact. Ids are UUIDs in lower case, of one length, so no two facts share a name. A grant is about a person
 * and a project and is named by both, in this order.
 */
export type FactKey = `${FactKind}:${string}`
export const factKey = (kind: FactKind, id: string): FactKey => `${kind}:${id}`
export const grantId = (userId: string, projectId: string): string => `${userId}/${projectId}`
/** The fact that a grant is part of, and of which project it speaks there; undefined for what is no grant. */
export const partOf = (key: FactKey): { readonly whole: FactKey; readonly projectId: string } | undefined => {
  if (!key.startsWith('grant:')) return undefined
  const slash = key.indexOf('/')
  return { whole: factKey('grants', key.slice('grant:'.length, slash)), projectId: key.slice(slash + 1) }
}
/** Whether a fact is all that was granted to a person: whoever hears that it changed takes every part of it for changed. */
export const isWhole = (key: FactKey): boolean => key.startsWith('grants:')

/** Of what was granted to a person no more than so many projects are left out: then it is better learnt anew. */
const maxExcept = 16

/** What is left of a fact when the grant on a project has changed; undefined where nothing is. */
export const without = (grants: GrantsFact, projectId: string): GrantsFact | undefined => {
  if (grants === 'many' || grants.except?.includes(projectId)) return grants
  const except = [...(grants.except ?? []), projectId]
  return except.length > maxExcept ? undefined : { granted: grants.granted, except }
}

/**
 * The facts of one question. A thing that does not exist has neither `project` nor `generation` nor `media`, which makes it a thing
 * nobody has anything to do with: no rule needs to know the difference, so no answer can show it.
 */
export type Facts = {
  readonly userId: string
  readonly account: AccountFact | undefined
  readonly project: ProjectFact | undefined
  readonly generation: GenerationFact | undefined
  /** Where the question is about media; `generation` is then the one that made it, if any. */
  readonly media?: MediaFact | undefined
  /** What the person may do on the project by owning it or through teams. */
  readonly grant: GrantFact | undefined
  /** Asked in order to make a child of the generation. */
  readonly deriving?: boolean
}
