import type { ResourceRef } from '../matrix.ts'
import { restrictionsId } from './mode.ts'
import { definitionOf, type FactKey, type FactKind, factKey, kindOf, partId } from './registry.ts'

/**
 * Asks for one fact, and for the facts it needs. For a resource, `userId` is the user whose access is asked about. A part is
 * named by its own `id` and the user.
 */
export type FactQuery = { readonly kind: FactKind; readonly id: string; readonly userId: string | null }

export const factQuery = (kind: FactKind, id: string): FactQuery => ({ kind, id, userId: null })
export const resourceQuery = ({ type, id }: ResourceRef, userId: string): FactQuery => ({ kind: type, id, userId })
/** The facts of a session that signs its user in. */
export const principalQueries = (sessionId: string, userId: string): FactQuery[] => [
  factQuery('session', sessionId),
  factQuery('account', userId),
]

export const modeQuery: FactQuery = factQuery('mode', restrictionsId)
/** What the admission of a request depends on beside its principal. */
export const restrictionQueries: readonly FactQuery[] = [modeQuery, factQuery('blocked_networks', restrictionsId)]

export const toFactKey = ({ kind, id, userId }: FactQuery): FactKey =>
  factKey(kind, definitionOf(kind).part === undefined || userId === null ? id : partId(userId, id))

export const toFactQuery = (key: FactKey): FactQuery => {
  const kind = kindOf(key)
  const id = key.slice(kind.length + 1)
  const slash = definitionOf(kind).part === undefined ? -1 : id.indexOf('/')
  return slash < 0 ? factQuery(kind, id) : { kind, id: id.slice(slash + 1), userId: id.slice(0, slash) }
}

/** Queries by their `queryName`: equal names can share one load. */
export type NamedQueries = ReadonlyMap<string, FactQuery>

/** Names what a load returns for a query. Includes the user whose grants the load reads too, if any. */
export const queryName = ({ kind, id, userId }: FactQuery): string =>
  userId === null ? factKey(kind, id) : `${kind}:${id}/${userId}`
