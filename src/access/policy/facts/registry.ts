import { account } from './account.ts'
import { blockedNetworks } from './blocked-networks.ts'
import type { FactDefinition, Part, ResourceDefinition } from './definition.ts'
import { featureFlags } from './feature-flags.ts'
import { generation } from './generation.ts'
import { grant } from './grant.ts'
import { grants } from './grants.ts'
import { media } from './media.ts'
import { memberships } from './memberships.ts'
import { mode } from './mode.ts'
import { profile } from './profile.ts'
import { project } from './project.ts'
import { serviceKey } from './service-key.ts'
import { session } from './session.ts'

/**
 * Every kind of fact. To add one: declare it in a file beside this one, list it here, and give its table triggers that
 * invalidate it. A kind that a resource needs is listed in `needs` of that resource's kind, and reaches the rules in `Facts`.
 */
export const factDefinitions = {
  session,
  account,
  profile,
  project,
  generation,
  media,
  grant,
  grants,
  service_key: serviceKey,
  memberships,
  feature_flags: featureFlags,
  mode,
  blocked_networks: blockedNetworks,
} as const

type Definitions = typeof factDefinitions
export type FactKind = keyof Definitions
export type Fact = { readonly [K in FactKind]: Definitions[K]['schema']['static'] }
/** Kinds that describe a resource, or a user's access to one. */
export type ResourceFactKind = {
  [K in FactKind]: Definitions[K] extends ResourceDefinition<K, Fact[K]> ? K : never
}[FactKind]

export const factKinds = Object.keys(factDefinitions) as FactKind[]
export const definitionOf: (kind: FactKind) => FactDefinition = (kind) => factDefinitions[kind]

/** Names one fact. Ids are UUIDs in lower case, of one length, so no two facts share a key. */
export type FactKey = `${FactKind}:${string}`
export const factKey = (kind: FactKind, id: string): FactKey => `${kind}:${id}`
export const kindOf = (key: FactKey): FactKind => key.slice(0, key.indexOf(':')) as FactKind

/** The id of a part names a user and the part, in this order. */
export const partId = (userId: string, id: string): string => `${userId}/${id}`

const parts = factKinds.flatMap((kind) => {
  const { part } = definitionOf(kind)
  return part === undefined ? [] : [{ prefix: `${kind}:`, part, wholePrefix: `${part.whole.kind}:` }]
})

/** The whole that contains a fact, and the id of the fact within it; undefined for a fact that is not a part (see `Part`). */
export const partOf = (
  key: FactKey,
): { readonly whole: FactKey; readonly id: string; readonly part: Part<unknown> } | undefined => {
  for (const { prefix, part, wholePrefix } of parts) {
    if (!key.startsWith(prefix)) continue
    const slash = key.indexOf('/')
    return { whole: `${wholePrefix}${key.slice(prefix.length, slash)}` as FactKey, id: key.slice(slash + 1), part }
  }
  return undefined
}

/** Whether a fact is a whole: its invalidation invalidates every part. */
export const isWhole = (key: FactKey): boolean => parts.some(({ wholePrefix }) => key.startsWith(wholePrefix))
