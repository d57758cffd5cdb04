import type { ObjectOptions, TObject, TProperties } from '@sinclair/typebox'
import { TypeCompiler } from '@sinclair/typebox/compiler'
import { describeInputError } from '../../http/input-errors.ts'
import { oneOf, type Static, t } from '../../http/schema-types.ts'
import { isId } from '../../kit/id.ts'
import { degraded } from '../model.ts'
import type { Decision } from '../policy/decide.ts'
import { type Action, actions, type ResourceRef, type ResourceType, resourceTypes } from '../policy/matrix.ts'
import type { Aliases } from './aliases.ts'

/*
 * Translates between the OpenID AuthZEN Authorization API 1.0 and `decide`. A subject is a `user` with its id; actions and
 * resource types have the same names as here; AUTHZEN_ALIASES adds ids and types. The standard requires receivers to ignore
 * unknown members, so every schema is open. `properties` and `context` are accepted and ignored: no rule depends on
 * attributes that a client asserts.
 */

export const open = <P extends TProperties>(properties: P, options: ObjectOptions = {}): TObject<P> =>
  t.Object(properties, { ...options, additionalProperties: true })

export const ignoredObject = t.Optional(open({}, { description: 'Accepted and ignored' }))
const entityMembers = { type: t.String(), id: t.String(), properties: ignoredObject }
const typeIs = (types: readonly string[]) => ({ description: `\`type\` must be one of ${types.join(', ')}` })

export const subject = open(entityMembers, { description: '`type` must be `user`' })
export const action = open(
  { name: t.String(), properties: ignoredObject },
  { description: `\`name\` must be one of ${actions.join(', ')}` },
)
export const resource = open(entityMembers, typeIs(resourceTypes))

export const evaluation = open({ subject, action, resource, context: ignoredObject })
export type Evaluation = Static<typeof evaluation>

const semantics = ['execute_all', 'deny_on_first_deny', 'permit_on_first_permit'] as const
export type Semantic = (typeof semantics)[number]

export const maxEvaluations = 200

/** A default need not be complete: it is checked as a part of each item that has no such member itself. */
const defaultFor = (member: string) => t.Optional(open({}, { description: `For items without \`${member}\`` }))

export const evaluations = open({
  subject: defaultFor('subject'),
  action: defaultFor('action'),
  resource: defaultFor('resource'),
  context: defaultFor('context'),
  evaluations: t.Optional(
    t.Array(t.Unknown(), {
      maxItems: maxEvaluations,
      description:
        'Each is an evaluation. A member that an item lacks is taken from the top level; one that it has replaces that whole',
    }),
  ),
  options: t.Optional(open({ evaluations_semantic: t.Optional(oneOf(semantics)) })),
})
export type Evaluations = Static<typeof evaluations>

export const verdict = t.Object({
  decision: t.Boolean(),
  context: t.Object({
    reason: t.Optional(t.String()),
    degraded,
    error: t.Optional(t.Object({ status: t.Integer(), message: t.String() })),
  }),
})
export type Verdict = Static<typeof verdict>

export const verdicts = t.Object({
  evaluations: t.Array(verdict, {
    description: 'One decision for each item, in the order of the request. A semantic that stops early omits the rest',
  }),
})

const checkEvaluation = TypeCompiler.Compile(evaluation)

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Why an item is no valid evaluation. `pointer` is a JSON Pointer into the item. */
export type InvalidEvaluation = { readonly pointer: string; readonly detail: string }

/**
 * An item completed with the defaults of the request. A member of the item replaces the default whole: merging the two would
 * decide about an id that the item does not name.
 */
export const completeEvaluation = (item: unknown, defaults: Evaluations): Evaluation | InvalidEvaluation => {
  if (!isRecord(item)) return { pointer: '', detail: 'must be an object' }
  const {
    subject = defaults.subject,
    action = defaults.action,
    resource = defaults.resource,
    context = defaults.context,
  } = item
  const completed = { subject, action, resource, context }
  return checkEvaluation.Check(completed) ? completed : explainInvalid(completed)
}

/** A member that the JSON of item and request lacks is undefined here, and missing in the words about it. */
const explainInvalid = (given: Readonly<Record<string, unknown>>): InvalidEvaluation => {
  const completed = Object.fromEntries(Object.entries(given).filter(([, member]) => member !== undefined))
  const first = checkEvaluation.Errors(completed).First()
  return { pointer: first?.path ?? '', detail: describeInputError(first ?? {}) }
}

export type Question = { userId: string; action: Action; resource: ResourceRef }

export const isAction = (name: string): name is Action => (actions as readonly string[]).includes(name)
export const isResourceType = (type: string): type is ResourceType =>
  (resourceTypes as readonly string[]).includes(type)

export type Denied = { readonly denied: string }
type Entity = { readonly type: string; readonly id: string }

/** The id of the user that a subject names. */
export const toUserId = ({ type, id }: Entity, aliases: Aliases): string | Denied => {
  if (type !== 'user') return { denied: 'subject.type_unknown' }
  return isId(id) ? id : (aliases.findUser(id) ?? { denied: 'account.unknown' })
}

/**
 * The resource that an entity names. An id in another format that is no alias cannot exist, and has the reason of an id that
 * does not exist.
 */
export const toResource = ({ type, id }: Entity, aliases: Aliases): ResourceRef | Denied => {
  const isOurs = isResourceType(type)
  if (isOurs && isId(id)) return { type, id }
  if (!isOurs && !aliases.hasType(type)) return { denied: 'resource.type_unknown' }
  return aliases.findResource(type, id) ?? { denied: 'resource.not_visible' }
}

/** The evaluation as a question for `decide`, or the reason to deny it without one. */
export const toQuestion = ({ subject, action, resource }: Evaluation, aliases: Aliases): Question | Denied => {
  const userId = toUserId(subject, aliases)
  const ref = toResource(resource, aliases)
  if (subject.type !== 'user') return { denied: 'subject.type_unknown' }
  if (!isAction(action.name)) return { denied: 'action.unknown' }
  if ('denied' in ref && ref.denied === 'resource.type_unknown') return ref
  if (typeof userId !== 'string') return userId
  return 'denied' in ref ? ref : { userId, action: action.name, resource: ref }
}

/** Decisions are few and frozen, and so are their verdicts: each is made once, and its JSON text too. */
const verdictsOf = new WeakMap<Decision, Verdict>()

export const toVerdict = (given: Decision): Verdict => {
  const known = verdictsOf.get(given)
  if (known !== undefined) return known
  const { allowed, reason, degraded } = given
  const made = { decision: allowed, context: { reason, ...(degraded !== undefined && { degraded }) } }
  if (Object.isFrozen(given)) verdictsOf.set(given, Object.freeze(made))
  return made
}
export const denied = (reason: string): Verdict => ({ decision: false, context: { reason } })
export const failed = ({ pointer, detail }: InvalidEvaluation): Verdict => ({
  decision: false,
  context: { error: { status: 400, message: pointer === '' ? detail : `${pointer}: ${detail}` } },
})

/** The verdicts up to and including the first one at which the semantic stops. */
export const applySemantic = (verdicts: Verdict[], semantic: Semantic): Verdict[] => {
  if (semantic === 'execute_all') return verdicts
  const last = verdicts.findIndex(({ decision }) => decision === (semantic === 'permit_on_first_permit'))
  return last === -1 ? verdicts : verdicts.slice(0, last + 1)
}

export const metadataPath = '/.well-known/authzen-configuration'

/** Whether every response of a path, errors included, returns the `X-Request-ID` of its request. */
export const returnsRequestId = (path: string): boolean => path.startsWith('/access/v1/') || path === metadataPath
