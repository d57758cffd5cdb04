import type { ObjectOptions, TObject, TProperties } from '@sinclair/typebox'
import { TypeCompiler } from '@sinclair/typebox/compiler'
import { Fault } from '../../fault.ts'
import { describeInputError } from '../../http/input-errors.ts'
import { oneOf, type Static, t } from '../../http/schema-types.ts'
import { isId } from '../../kit/id.ts'
import type { Decision } from '../policy/decide.ts'
import { type Action, actions, type ResourceRef, type ResourceType, resourceTypes } from '../policy/matrix.ts'

/*
 * Translates between the OpenID AuthZEN Authorization API 1.0 and `decide`. A subject is a `user` with its id; actions and
 * resource types have the same names as here. The standard requires receivers to ignore unknown members, so every schema is
 * open. `properties` and `context` are accepted and ignored: no rule depends on attributes that a client asserts.
 */

const open = <P extends TProperties>(properties: P, options: ObjectOptions = {}): TObject<P> =>
  t.Object(properties, { ...options, additionalProperties: true })

const ignoredObject = t.Optional(open({}, { description: 'Accepted and ignored' }))
const entity = { type: t.String(), id: t.String(), properties: ignoredObject }
const actionEntity = { name: t.String(), properties: ignoredObject }

export const evaluation = open({
  subject: open(entity, { description: '`type` must be `user`' }),
  action: open(actionEntity, { description: `\`name\` must be one of ${actions.join(', ')}` }),
  resource: open(entity, { description: `\`type\` must be one of ${resourceTypes.join(', ')}` }),
  context: ignoredObject,
})
export type Evaluation = Static<typeof evaluation>

const semantics = ['execute_all', 'deny_on_first_deny', 'permit_on_first_permit'] as const
export type Semantic = (typeof semantics)[number]

export const maxEvaluations = 200

const entityDefault = open({ type: t.Optional(entity.type), id: t.Optional(entity.id), properties: ignoredObject })

export const evaluations = open({
  subject: t.Optional(entityDefault),
  action: t.Optional(open({ name: t.Optional(actionEntity.name), properties: ignoredObject })),
  resource: t.Optional(entityDefault),
  context: ignoredObject,
  evaluations: t.Optional(
    t.Array(t.Unknown(), {
      maxItems: maxEvaluations,
      description: 'Each is an evaluation. A member an item omits is taken from the top level',
    }),
  ),
  options: t.Optional(open({ evaluations_semantic: t.Optional(oneOf(semantics)) })),
})
export type Evaluations = Static<typeof evaluations>

export const verdict = t.Object({
  decision: t.Boolean(),
  context: t.Object({
    reason: t.Optional(t.String()),
    error: t.Optional(t.Object({ status: t.Integer(), message: t.String() })),
  }),
})
export type Verdict = Static<typeof verdict>

export const verdicts = t.Object({
  evaluations: t.Array(verdict, {
    description: 'One decision for each item, in the order of the request. A semantic that stops early omits the rest',
  }),
})

export const metadata = t.Object({
  policy_decision_point: t.String(),
  access_evaluation_endpoint: t.String(),
  access_evaluations_endpoint: t.String(),
})

const checkEvaluation = TypeCompiler.Compile(evaluation)

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** The members of an item take precedence; required members it omits are taken from the default of the request. */
const withDefault = (own: unknown, fallback: Record<string, unknown> | undefined, required: readonly string[]) => {
  if (own === undefined) return fallback
  if (!isRecord(own) || fallback === undefined) return own
  const missing = required.filter((name) => own[name] === undefined && fallback[name] !== undefined)
  return { ...own, ...Object.fromEntries(missing.map((name) => [name, fallback[name]])) }
}

/** Why an item is no valid evaluation. `pointer` is a JSON Pointer into the item. */
export type InvalidEvaluation = { readonly pointer: string; readonly detail: string }

/** An item completed with the defaults of the request. */
export const completeEvaluation = (item: unknown, defaults: Evaluations): Evaluation | InvalidEvaluation => {
  if (!isRecord(item)) return { pointer: '', detail: 'must be an object' }
  const completed = {
    subject: withDefault(item['subject'], defaults.subject, ['type', 'id']),
    action: withDefault(item['action'], defaults.action, ['name']),
    resource: withDefault(item['resource'], defaults.resource, ['type', 'id']),
    context: item['context'] ?? defaults.context,
  }
  if (checkEvaluation.Check(completed)) return completed
  const first = checkEvaluation.Errors(completed).First()
  return { pointer: first?.path ?? '', detail: describeInputError(first ?? {}) }
}

export type Question = { userId: string; action: Action; resource: ResourceRef }

const isAction = (name: string): name is Action => (actions as readonly string[]).includes(name)
const isResourceType = (type: string): type is ResourceType => (resourceTypes as readonly string[]).includes(type)

/**
 * The evaluation as a question for `decide`, or the reason to deny it without one. An id in another format cannot exist,
 * and is denied with the reason of an id that does not exist.
 */
export const toQuestion = ({ subject, action, resource }: Evaluation): Question | { readonly denied: string } => {
  if (subject.type !== 'user') return { denied: 'subject.type_unknown' }
  if (!isAction(action.name)) return { denied: 'action.unknown' }
  if (!isResourceType(resource.type)) return { denied: 'resource.type_unknown' }
  if (!isId(subject.id)) return { denied: 'account.unknown' }
  if (!isId(resource.id)) return { denied: 'resource.not_visible' }
  return { userId: subject.id, action: action.name, resource: { type: resource.type, id: resource.id } }
}

export const toVerdict = ({ allowed, reason }: Decision): Verdict => ({ decision: allowed, context: { reason } })
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

export const isAuthzenPath = (path: string): boolean => path.startsWith('/access/v1/')

/** The standard answers every invalid request with 400, so 415 and 422 become `request.malformed`. */
export const asAuthzenFault = (fault: Fault): Fault =>
  fault.code === 'request.invalid' || fault.code === 'request.media_type_unsupported'
    ? new Fault('request.malformed', { cause: fault, ...(fault.problems && { problems: fault.problems }) })
    : fault
