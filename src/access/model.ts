/** What may be done to a thing. A set of actions is a number, one bit each. */
export const actions = ['read', 'download', 'create', 'write', 'share', 'delete', 'admin'] as const
export type Action = (typeof actions)[number]

export type ActionSet = number

export const actionBit = Object.freeze(
  Object.fromEntries(actions.map((action, index) => [action, 1 << index])),
) as Readonly<Record<Action, ActionSet>>

export const setOf = (...members: readonly Action[]): ActionSet =>
  members.reduce((set, action) => set | actionBit[action], 0)

export const every: ActionSet = setOf(...actions)

export const has = (set: ActionSet, action: Action): boolean => (set & actionBit[action]) !== 0

/** Who may do what: the whole matrix. SQL has a copy of it in access_rules, written from here at the start. */
export const ownerActions: ActionSet = every
/** The owner of a generation may do everything to it but administer it: that belongs to projects. */
export const generationOwnerActions: ActionSet = every & ~setOf('admin')
export const publicActions: ActionSet = setOf('read', 'download')

/** Ordered: a role is above those after it. */
export const teamRoles = ['owner', 'admin', 'editor', 'contributor', 'viewer'] as const
export type TeamRole = (typeof teamRoles)[number]
export const roleActions: Readonly<Record<TeamRole, ActionSet>> = {
  owner: every,
  admin: every,
  editor: setOf('read', 'download', 'create', 'write', 'share'),
  contributor: setOf('read', 'download', 'create'),
  viewer: setOf('read', 'download'),
}

export const accessLevels = ['read', 'write', 'admin'] as const
export type AccessLevel = (typeof accessLevels)[number]
/** What a team can get out of a project at most; its members get the part of it that their role has. */
export const levelActions: Readonly<Record<AccessLevel, ActionSet>> = {
  read: setOf('read', 'download'),
  write: setOf('read', 'download', 'create', 'write', 'share'),
  admin: every,
}

export const isAbove = (role: TeamRole, other: TeamRole): boolean => teamRoles.indexOf(role) < teamRoles.indexOf(other)

export const resourceTypes = ['project', 'generation', 'media'] as const
export type ResourceType = (typeof resourceTypes)[number]
/** Those that lists name: media are listed with their generation. */
export const listedTypes = ['project', 'generation'] as const
export type ListedType = (typeof listedTypes)[number]
export type ListedRef = { readonly type: ListedType; readonly id: string }
export type ResourceRef = { readonly type: ResourceType; readonly id: string }

export const generationStatuses = ['queued', 'processing', 'completed', 'failed', 'cancelled'] as const
export type GenerationStatus = (typeof generationStatuses)[number]

/** What a generation is to its parent; an original has none. */
export const intents = ['original', 'improve', 'iterate', 'fork', 'remix'] as const
export type Intent = (typeof intents)[number]

export const visibilities = ['private', 'team-only', 'public'] as const
export type Visibility = (typeof visibilities)[number]

/** What a service key may ask for. */
export const scopes = ['authorization:check', 'authorization:list', 'performance:read'] as const
export type Scope = (typeof scopes)[number]

export const accountStatuses = ['active', 'suspended', 'deleted'] as const
export const accountRoles = ['user', 'admin'] as const
export const plans = ['free', 'pro', 'enterprise'] as const

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
