import type { ObjectOptions, TObject, TProperties } from '@sinclair/typebox'
import { TypeCompiler } from '@sinclair/typebox/compiler'
import { Fault } from '../../fault.ts'
import { describeInputError } from '../../http/input-errors.ts'
import { oneOf, type Static, t } from '../../http/schema-types.ts'
import { isId } from '../../kit/id.ts'
import type { Decision } from '../policy/decide.ts'
import { type Action, actions, type ResourceRef, type ResourceType, resourceTypes } from '../policy/matrix.ts'

/*
 * The words of the OpenID AuthZEN Authorization API 1.0, between the wire and `decide`: a subject is a `user` by id,
 * actions and resource types are ours by name. The standard has receivers ignore what they do not know, so nothing here
 * is closed; `properties` and `context` are taken and not looked into, because no rule depends on what a caller claims.
 */

const open = <P extends TProperties>(properties: P, options: ObjectOptions = {}): TObject<P> =>
  t.Object(properties, { ...options, additionalProperties: true })

const bag = t.Optional(open({}, { description: 'Taken, and not looked into' }))
const entity = { type: t.String(), id: t.String(), properties: bag }
const act = { name: t.String(), properties: bag }

export const evaluation = open({
  subject: open(entity, { description: '`type` is `user`' }),
  action: open(act, { description: `\`name\` is one of ${actions.join(', ')}` }),
  resource: open(entity, { description: `\`type\` is one of ${resourceTypes.join(', ')}` }),
  context: bag,
})
export type Evaluation = Static<typeof evaluation>

const semantics = ['execute_all', 'deny_on_first_deny', 'permit_on_first_permit'] as const
export type Semantic = (typeof semantics)[number]

export const maxEvaluations = 200

const entityDefault = open({ type: t.Optional(entity.type), id: t.Optional(entity.id), properties: bag })

export const evaluations = open({
  subject: t.Optional(entityDefault),
  action: t.Optional(open({ name: t.Optional(act.name), properties: bag })),
  resource: t.Optional(entityDefault),
  context: bag,
  evaluations: t.Optional(
    t.Array(t.Unknown(), {
      maxItems: maxEvaluations,
      description: 'Each as for one evaluation; what an item leaves out is taken from the top level',
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
    description: 'In the order of the request; a semantic that stops early leaves out what comes after',
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

/** What a request says itself goes first; the required members it leaves out are taken from the default. */
const withDefault = (own: unknown, standard: Record<string, unknown> | undefined, required: readonly string[]) => {
  if (own === undefined) return standard
  if (!isRecord(own) || standard === undefined) return own
  const missing = required.filter((name) => own[name] === undefined && standard[name] !== undefined)
  return { ...own, ...Object.fromEntries(missing.map((name) => [name, standard[name]])) }
}

/** What keeps something from being an evaluation; `pointer` is a JSON Pointer into it. */
export type Incomplete = { readonly pointer: string; readonly detail: string }

/** One item with the defaults of the request filled in. */
export const completeEvaluation = (item: unknown, defaults: Evaluations): Evaluation | Incomplete => {
  if (!isRecord(item)) return { pointer: '', detail: 'must be an object' }
  const whole = {
    subject: withDefault(item['subject'], defaults.subject, ['type', 'id']),
    action: withDefault(item['action'], defaults.action, ['name']),
    resource: withDefault(item['resource'], defaults.resource, ['type', 'id']),
    context: item['context'] ?? defaults.context,
  }
  if (checkEvaluation.Check(whole)) return whole
  const first = checkEvaluation.Errors(whole).First()
  return { pointer: first?.path ?? '', detail: describeInputError(first ?? {}) }
}

export type Question = { userId: string; action: Action; resource: ResourceRef }

const isAction = (name: string): name is Action => (actions as readonly string[]).includes(name)
const isResourceType = (type: string): type is ResourceType => (resourceTypes as readonly string[]).includes(type)

/**
 * What an evaluation asks in our words, or the reason why it can only be denied. An id that is not spelt as ours are
 * names nobody and nothing, and is answered like one that was never given out.
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
export const failed = ({ pointer, detail }: Incomplete): Verdict => ({
  decision: false,
  context: { error: { status: 400, message: pointer === '' ? detail : `${pointer}: ${detail}` } },
})

/** The answers up to the one that settles the whole request, that one included. */
export const settle = (answers: Verdict[], semantic: Semantic): Verdict[] => {
  if (semantic === 'execute_all') return answers
  const settled = answers.findIndex(({ decision }) => decision === (semantic === 'permit_on_first_permit'))
  return settled === -1 ? answers : answers.slice(0, settled + 1)
}

export const isAuthzenPath = (path: string): boolean => path.startsWith('/access/v1/')

/** The standard has one status for every request that cannot be taken: 400. */
export const asAuthzenFault = (fault: Fault): Fault =>
  fault.code === 'request.invalid' || fault.code === 'request.media_type_unsupported'
    ? new Fault('request.malformed', { cause: fault, ...(fault.problems && { problems: fault.problems }) })
    : fault
