import { Buffer } from 'node:buffer'
import { createHash } from 'node:crypto'
import { Fault } from '../../fault.ts'
import { type Static, t } from '../../http/schema-types.ts'
import { decodeBase64url, encodeBase64url } from '../../kit/base64url.ts'
import type { Deadline } from '../../kit/deadline.ts'
import { isId } from '../../kit/id.ts'
import type { Access } from '../access.ts'
import type { Listing } from '../listing/listing.ts'
import { actions, listedTypes } from '../policy/matrix.ts'
import type { Aliases } from './aliases.ts'
import { action, ignoredObject, isAction, open, resource, subject, toResource, toUserId } from './authzen.ts'

/** Largest page of a search, and its size where a request names none. */
export const maxResults = 100

const page = t.Optional(
  open(
    {
      token: t.Optional(t.String({ maxLength: 512, description: '`next_token` of the previous page' })),
      limit: t.Optional(t.Integer({ minimum: 0, description: `Default and most: ${maxResults}` })),
      properties: ignoredObject,
    },
    { description: 'A token continues the search that issued it, so all other members must be the same' },
  ),
)
type Page = Static<typeof page> | undefined

/** The standard ignores the id of the searched entity, so it may be of any type. */
const typeAlone = (description: string) => open({ type: t.String(), properties: ignoredObject }, { description })

export const subjectSearch = open({
  subject: typeAlone('`type` must be `user`'),
  action,
  resource,
  context: ignoredObject,
  page,
})
export const resourceSearch = open({
  subject,
  action,
  resource: typeAlone(`\`type\` must be one of ${listedTypes.join(', ')}: media are listed with their generation`),
  context: ignoredObject,
  page,
})
export const actionSearch = open({ subject, resource, context: ignoredObject, page })

const resultsOf = <T extends Parameters<typeof t.Array>[0]>(item: T) =>
  t.Object({
    results: t.Array(item),
    page: t.Object({
      next_token: t.String({ description: 'Empty on the last page' }),
      count: t.Integer({ description: 'The number of results on this page' }),
    }),
  })
const entity = t.Object({ type: t.String(), id: t.String() })
export const foundEntities = resultsOf(entity)
export const foundActions = resultsOf(t.Object({ name: t.String() }))

const digestBytes = 12

/** Identifies a search: a token that another search issued is refused, instead of skipping results. */
const digestOf = (...search: readonly string[]): Uint8Array =>
  createHash('sha256').update(JSON.stringify(search)).digest().subarray(0, digestBytes)

const tokenRefused = () =>
  new Fault('request.malformed', {
    problems: [{ in: 'body', pointer: '/page/token', detail: 'must be the `next_token` of the previous page' }],
  })

/** Where a page begins: after the result of this name. The token holds no secret: each page is decided anew. */
const readPlace = (search: Uint8Array, { token = '', limit = maxResults }: NonNullable<Page> = {}) => {
  const place = { limit: Math.min(limit, maxResults) }
  if (token === '') return { ...place, after: null }
  const bytes = decodeBase64url(token)
  if (bytes === undefined || Buffer.compare(bytes.subarray(0, digestBytes), search) !== 0) throw tokenRefused()
  return { ...place, after: Buffer.from(bytes.subarray(digestBytes)).toString() || null }
}

type Place = ReturnType<typeof readPlace>

/** A page of rows that were read one beyond the limit. */
const toResults = <Row, Result>(
  search: Uint8Array,
  { after, limit }: Place,
  rows: readonly Row[],
  { nameOf, toResult }: { nameOf: (row: Row) => string; toResult: (row: Row) => Result },
) => {
  const shown = rows.slice(0, limit)
  const last = shown.at(-1)
  const position = last === undefined ? (after ?? '') : nameOf(last)
  const next = rows.length > limit ? encodeBase64url(Buffer.concat([search, Buffer.from(position)])) : ''
  return { results: shown.map(toResult), page: { next_token: next, count: shown.length } }
}

const nothing = { results: [], page: { next_token: '', count: 0 } }

const byId = { nameOf: ({ id }: { id: string }) => id }

type Dependencies = { access: Pick<Access, 'decideMany'>; listing: Listing; aliases: Aliases }

/**
 * The three searches of AuthZEN. A result is what an evaluation of it would allow; an unknown type, action or id has none.
 * Each page costs one statement, limited to the page. Listed ids that have an alias are named by it.
 */
export const createSearches = ({ access, listing, aliases }: Dependencies) => {
  const placeById = (search: Uint8Array, given: Page): Place => {
    const place = readPlace(search, given)
    if (place.after !== null && !isId(place.after)) throw tokenRefused()
    return place
  }

  /** A type that only aliases have: all its resources are decided at once. */
  const searchAliases = async (
    userId: string,
    body: Static<typeof resourceSearch>,
    search: Uint8Array,
    deadline: Deadline,
  ) => {
    const { name } = body.action
    const { type } = body.resource
    const place = readPlace(search, body.page)
    if (!isAction(name)) return nothing
    const { after } = place
    const named = aliases.listResources(type).filter(({ id }) => after === null || id > after)
    const decisions = await access.decideMany(
      named.map(({ ref }) => ({ userId, action: name, resource: ref })),
      deadline,
    )
    const allowed = named.filter((_, at) => decisions[at]?.allowed)
    return toResults(search, place, allowed, { ...byId, toResult: ({ id }) => ({ type, id }) })
  }

  return {
    subjects: async (body: Static<typeof subjectSearch>, deadline: Deadline) => {
      const { name } = body.action
      const search = digestOf('subject', body.subject.type, name, body.resource.type, body.resource.id)
      const place = placeById(search, body.page)
      const ref = toResource(body.resource, aliases)
      if (body.subject.type !== 'user' || !isAction(name) || 'denied' in ref) return nothing
      const rows = await listing.subjects(deadline, ref, name, place)
      const toResult = ({ id }: { id: string }) => ({ type: 'user', id: aliases.nameOf('user', id) })
      return toResults(search, place, rows, { ...byId, toResult })
    },

    resources: async (body: Static<typeof resourceSearch>, deadline: Deadline) => {
      const { name } = body.action
      const { type } = body.resource
      const search = digestOf('resource', body.subject.type, body.subject.id, name, type)
      const userId = toUserId(body.subject, aliases)
      if (type === 'media') {
        const detail = `must be one of ${listedTypes.join(', ')}, because media are listed with their generation`
        throw new Fault('request.malformed', { problems: [{ in: 'body', pointer: '/resource/type', detail }] })
      }
      const listed = listedTypes.find((known) => known === type)
      if (listed === undefined && aliases.hasType(type) && typeof userId === 'string') {
        return searchAliases(userId, body, search, deadline)
      }
      const place = placeById(search, body.page)
      if (listed === undefined || !isAction(name) || typeof userId !== 'string') return nothing
      const rows = await listing.resources(deadline, userId, listed, name, place)
      const toResult = ({ id }: { id: string }) => ({ type, id: aliases.nameOf(type, id) })
      return toResults(search, place, rows, { ...byId, toResult })
    },

    actions: async (body: Static<typeof actionSearch>, deadline: Deadline) => {
      const search = digestOf('action', body.subject.type, body.subject.id, body.resource.type, body.resource.id)
      const place = readPlace(search, body.page)
      const names: readonly string[] = actions
      const known = names.indexOf(place.after ?? '')
      if (place.after !== null && known === -1) throw tokenRefused()
      const userId = toUserId(body.subject, aliases)
      const ref = toResource(body.resource, aliases)
      if (typeof userId !== 'string' || 'denied' in ref) return nothing
      const asked = actions.slice(known + 1)
      const decisions = await access.decideMany(
        asked.map((name) => ({ userId, action: name, resource: ref })),
        deadline,
      )
      const allowed = asked.filter((_, at) => decisions[at]?.allowed)
      return toResults(search, place, allowed, { nameOf: (name) => name, toResult: (name) => ({ name }) })
    },
  }
}
