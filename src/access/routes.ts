import { Elysia } from 'elysia'
import type { DecisionAudit } from '../audit/decisions.ts'
import { Fault, type InputProblem } from '../fault.ts'
import { bodyLimits } from '../http/body.ts'
import { contract } from '../http/contract.ts'
import { jsonTextOfList, withJsonText } from '../http/json-text.ts'
import type { RequestContext } from '../http/request-context.ts'
import { type Static, toPlace } from '../http/schema-types.ts'
import type { Deadline } from '../kit/deadline.ts'
import { mapMaybePromise } from '../kit/maybe-promise.ts'
import type { Access } from './access.ts'
import type { Question } from './cache/decision-facts.ts'
import { redactExplanation } from './explanation.ts'
import type { Guard } from './guard/guard.ts'
import type { Listing } from './listing/listing.ts'
import * as schema from './model.ts'
import type { Decision } from './policy/decide.ts'
import type { CircumstanceFinding, Circumstances } from './policy/findings.ts'
import type { ResourceRef } from './policy/matrix.ts'
import { actorOf, type Principal } from './principal.ts'

const tags = ['authorization']
const security = ['bearer', 'service_key', 'cookie'] as const
const errors = ['authorization.not_about_others', 'service_key.scope_missing'] as const

const resourceOf = (body: unknown) => [(body as schema.Question).resource]
const resourcesOfBatch = (body: unknown) => (body as Static<typeof schema.batch>).checks.map(({ resource }) => resource)
const resourceOfQuery = (query: unknown): ResourceRef[] => {
  const { type, id } = query as schema.WhoQuery
  return [{ type, id }]
}

/** Where a question names its user. A number: the item of a batch. */
type Place = Pick<InputProblem, 'in' | 'pointer'> | number

/** The user a question is about: a person may only ask about itself, a service must name a user. */
const subjectOf = (principal: Principal, userId: string | undefined, place: Place): string => {
  if (principal.kind === 'service') {
    if (userId !== undefined) return userId
    const where = typeof place === 'number' ? { in: 'body' as const, pointer: `/checks/${place}/user_id` } : place
    throw new Fault('request.invalid', {
      problems: [{ ...where, detail: 'is required, because a service must name the user it asks about' }],
    })
  }
  if (userId === undefined || userId === principal.caller.userId) return principal.caller.userId
  throw new Fault('authorization.not_about_others')
}

const inBody = { in: 'body', pointer: '/user_id' } as const

const toQuestions = (principal: Principal, checks: readonly schema.Question[]): Question[] =>
  checks.map(({ user_id, action, resource }, index) => ({
    userId: subjectOf(principal, user_id, index),
    action,
    resource,
  }))

const recordAll = (
  decisionAudit: DecisionAudit,
  principal: Principal,
  questions: readonly Question[],
  decisions: readonly Decision[],
  deadline: Deadline,
): void => {
  const actor = actorOf(principal)
  for (let at = 0; at < questions.length; at += 1) {
    const { userId, action, resource } = questions[at] as Question
    decisionAudit.record(decisions[at] as Decision, actor, userId, action, resource, deadline)
  }
}

/** The finding of layer 10 on a user, as the user itself may see it (`isOwn`) or a service. */
export type AnomalyFindingOf = (userId: string, isOwn: boolean) => CircumstanceFinding

/**
 * The findings of layers 4 and 10 for an explanation. Neither denies: guard and limits have refused the request where they must. So
 * a check is decided without them. A service has no context that could be compared with a session.
 */
const circumstancesOf = (
  principal: Principal,
  userId: string,
  { contextFinding }: Pick<RequestContext, 'contextFinding'>,
  anomalyFindingOf: AnomalyFindingOf,
): Circumstances => {
  const isOwn = principal.kind === 'person'
  return { anomaly: anomalyFindingOf(userId, isOwn), context: isOwn ? contextFinding : undefined }
}

/** A page of ids is joined from what Postgres returned. To check each of them would take as long as to read them. */
const withoutCheck = <H extends { response: unknown }>({ response: _, ...hook }: H): Omit<H, 'response'> => hook

type Dependencies = {
  access: Access
  listing: Listing
  guard: Guard
  decisionAudit: DecisionAudit
  anomalyFindingOf: AnomalyFindingOf
}

export const accessRoutes = ({ access, listing, guard, decisionAudit, anomalyFindingOf }: Dependencies) =>
  new Elysia({ prefix: '/api/v1/authorization' })
    .use(guard)
    .post(
      '/check',
      ({ context, principal, body }) => {
        context.asked = body
        const { deadline } = context
        const { user_id, action, resource } = body
        const userId = subjectOf(principal, user_id, inBody)
        return mapMaybePromise(access.decide(userId, action, resource, deadline), (decision) => {
          decisionAudit.record(decision, actorOf(principal), userId, action, resource, deadline)
          return decision
        })
      },
      {
        personOrService: { scope: 'authorization:check', resourcesOf: resourceOf },
        ...contract(
          { body: schema.question },
          { 200: schema.decision },
          {
            summary: 'Decide whether a user may do an action on a resource',
            tags,
            security,
            errors,
            storesNothing: true,
          },
        ),
      },
    )
    .post(
      '/check/batch',
      ({ context, principal, body }) => {
        context.asked = body.checks
        const { deadline } = context
        const questions = toQuestions(principal, body.checks)
        return mapMaybePromise(access.decideMany(questions, deadline), (results) => {
          recordAll(decisionAudit, principal, questions, results, deadline)
          return withJsonText({ results }, `{"results":${jsonTextOfList(results)}}`)
        })
      },
      {
        personOrService: { scope: 'authorization:check', resourcesOf: resourcesOfBatch },
        ...contract(
          { body: schema.batch },
          { 200: schema.decisions },
          {
            summary: 'Decide up to 200 checks in one request',
            tags,
            security,
            errors,
            maxBytes: bodyLimits.large,
            accepts: schema.isBatch,
          },
        ),
      },
    )
    .post(
      '/explain',
      ({ context, principal, body: { user_id, action, resource } }) => {
        context.asked = { resource }
        const { deadline } = context
        const userId = subjectOf(principal, user_id, inBody)
        const circumstances = circumstancesOf(principal, userId, context, anomalyFindingOf)
        const record = (decision: Decision): boolean =>
          decisionAudit.record(decision, actorOf(principal), userId, action, resource, deadline)
        return mapMaybePromise(
          access.explain(userId, action, resource, deadline, circumstances, record),
          (explanation) => (principal.kind === 'person' ? redactExplanation(explanation) : explanation),
        )
      },
      {
        personOrService: { scope: 'authorization:check' },
        ...contract(
          { body: schema.question },
          { 200: schema.explanation },
          {
            summary: 'Explain a decision: the verdict and reason of each of the ten layers',
            tags,
            security,
            errors,
            storesNothing: true,
          },
        ),
      },
    )
    .get(
      '/accessible',
      ({ context, principal, query }) => {
        const userId = subjectOf(principal, query.user_id, { in: 'query', pointer: '/user_id' })
        return listing.accessible(context.deadline, userId, query, toPlace(query))
      },
      {
        personOrService: { scope: 'authorization:list' },
        ...withoutCheck(
          contract(
            { query: schema.accessibleQuery },
            { 200: schema.accessible },
            { summary: 'List the resources a user may do an action on, newest first', tags, security, errors },
          ),
        ),
      },
    )
    .get(
      '/who',
      async ({ context, principal, query: { type, id, action, ...page } }) => {
        const ref = { type, id }
        if (principal.kind === 'person') await access.require(principal.caller, 'share', ref, context.deadline)
        return listing.who(context.deadline, ref, action, toPlace(page))
      },
      {
        personOrServiceByQuery: { scope: 'authorization:list', resourcesOf: resourceOfQuery },
        ...withoutCheck(
          contract(
            { query: schema.whoQuery },
            { 200: schema.who },
            {
              summary:
                'List the users who may do an action on a resource. A person may ask about resources it may share',
              tags,
              security,
              errors: ['service_key.scope_missing', 'project.not_found', 'generation.not_found', 'access.denied'],
            },
          ),
        ),
      },
    )
