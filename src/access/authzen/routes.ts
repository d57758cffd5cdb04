import { Elysia } from 'elysia'
import type { DecisionAudit } from '../../audit/decisions.ts'
import type { Config } from '../../config.ts'
import { Fault } from '../../fault.ts'
import { bodyLimits } from '../../http/body.ts'
import { contract } from '../../http/contract.ts'
import { jsonTextOfList, withJsonText } from '../../http/json-text.ts'
import { givenRequestId, originOf, type RequestContext } from '../../http/request-context.ts'
import { type Static, t } from '../../http/schema-types.ts'
import { type MaybePromise, mapMaybePromise } from '../../kit/maybe-promise.ts'
import type { Access } from '../access.ts'
import type { Question } from '../cache/decision-facts.ts'
import type { Guard } from '../guard/guard.ts'
import type { Listing } from '../listing/listing.ts'
import type { Service } from '../principal.ts'
import { type Aliases, createAliases } from './aliases.ts'
import * as authzen from './authzen.ts'
import * as search from './search.ts'

/** Holds the place of an item until it is decided. */
const undecided = authzen.denied('default.deny')

const tags = ['authzen']
const security = ['service_key'] as const
const errors = ['access.services_only', 'service_key.scope_missing'] as const
/** The standard answers a message that is not valid with 400, and allows any JSON string in the members that are ignored. */
const documentation = {
  tags,
  security,
  errors,
  maxBytes: bodyLimits.large,
  acceptsUnstorable: true,
  storesNothing: true,
  invalidAs: 'request.malformed',
} as const

const endpoints = {
  access_evaluation_endpoint: '/access/v1/evaluation',
  access_evaluations_endpoint: '/access/v1/evaluations',
  search_subject_endpoint: '/access/v1/search/subject',
  search_resource_endpoint: '/access/v1/search/resource',
  search_action_endpoint: '/access/v1/search/action',
} as const

/** Of this service alone; the standard lets receivers ignore metadata they do not know. */
const limits = {
  max_body_bytes: bodyLimits.large,
  max_evaluations: authzen.maxEvaluations,
  max_page_limit: search.maxResults,
} as const

const url = t.String()
const metadata = t.Object({
  policy_decision_point: url,
  access_evaluation_endpoint: url,
  access_evaluations_endpoint: url,
  search_subject_endpoint: url,
  search_resource_endpoint: url,
  search_action_endpoint: url,
  velro_limits: t.Object({
    max_body_bytes: t.Integer({ description: 'Largest body of a request, in bytes; a larger one is a 413' }),
    max_evaluations: t.Integer({ description: 'Most `evaluations` of a request; more are a 400' }),
    max_page_limit: t.Integer({ description: 'Most results on a page of a search; a higher `limit` is lowered to it' }),
  }),
})

type Dependencies = {
  access: Access
  listing: Listing
  guard: Guard
  config: Pick<Config, 'publicUrl' | 'authzenAliases'>
  decisionAudit: DecisionAudit
}

/** Evaluations, one and many. Without a promise where memory has every fact. */
const createEvaluations = (access: Access, aliases: Aliases, decisionAudit: DecisionAudit) => {
  /** The verdicts of all items, in their order. Only the questions among them are decided. */
  const evaluateAll = (
    { deadline }: RequestContext,
    service: Service,
    items: readonly unknown[],
    defaults: authzen.Evaluations,
  ): MaybePromise<authzen.Verdict[]> => {
    const verdicts: authzen.Verdict[] = []
    const asked: Question[] = []
    const places: number[] = []
    for (const [at, item] of items.entries()) {
      const evaluation = authzen.completeEvaluation(item, defaults)
      const question = 'pointer' in evaluation ? evaluation : authzen.toQuestion(evaluation, aliases)
      if ('userId' in question) {
        asked.push(question)
        places.push(at)
        verdicts.push(undecided)
      } else verdicts.push('pointer' in question ? authzen.failed(question) : authzen.denied(question.denied))
    }
    return mapMaybePromise(access.decideMany(asked, deadline), (decisions) => {
      for (const [number, decision] of decisions.entries()) {
        const { userId, action, resource } = asked[number] as Question
        decisionAudit.record(decision, service, userId, action, resource, deadline)
        verdicts[places[number] as number] = authzen.toVerdict(decision)
      }
      return verdicts
    })
  }

  const evaluate = (
    { deadline }: RequestContext,
    service: Service,
    evaluation: authzen.Evaluation,
  ): MaybePromise<authzen.Verdict> => {
    const question = authzen.toQuestion(evaluation, aliases)
    if ('denied' in question) return authzen.denied(question.denied)
    const { userId, action, resource } = question
    return mapMaybePromise(access.decide(userId, action, resource, deadline), (decision) => {
      decisionAudit.record(decision, service, userId, action, resource, deadline)
      return authzen.toVerdict(decision)
    })
  }

  /** Several evaluations, or the one that a request without items is. */
  const evaluateItems = (
    context: RequestContext,
    service: Service,
    body: authzen.Evaluations,
    items: readonly unknown[],
  ): MaybePromise<authzen.Verdict | Static<typeof authzen.verdicts>> => {
    if (items.length === 0) {
      const single = authzen.completeEvaluation({}, body)
      if ('pointer' in single) throw new Fault('request.malformed', { problems: [{ in: 'body', ...single }] })
      return evaluate(context, service, single)
    }
    return mapMaybePromise(evaluateAll(context, service, items, body), (verdicts) => {
      const evaluations = authzen.applySemantic(verdicts, body.options?.evaluations_semantic ?? 'execute_all')
      return withJsonText({ evaluations }, `{"evaluations":${jsonTextOfList(evaluations)}}`)
    })
  }

  return { evaluate, evaluateItems }
}

/** OpenID AuthZEN Authorization API 1.0, for services. */
export const authzenRoutes = ({ access, listing, guard, config, decisionAudit }: Dependencies) => {
  const aliases = createAliases(config.authzenAliases)
  const { evaluate, evaluateItems } = createEvaluations(access, aliases, decisionAudit)
  const searches = search.createSearches({ access, listing, aliases })

  return (
    new Elysia()
      .use(guard)
      // The standard requires the X-Request-ID of the request to be returned unchanged.
      .onTransform(({ request, set }) => {
        const given = givenRequestId(request)
        if (given !== undefined) set.headers['x-request-id'] = given
      })
      .post(endpoints.access_evaluation_endpoint, ({ context, service, body }) => evaluate(context, service, body), {
        service: 'authorization:check',
        ...contract(
          { body: authzen.evaluation },
          { 200: authzen.verdict },
          { summary: 'Access Evaluation: one decision', ...documentation },
        ),
      })
      .post(
        endpoints.access_evaluations_endpoint,
        ({ context, service, body, countItems }) => {
          const items = body.evaluations ?? []
          return mapMaybePromise(countItems(items.length), () => evaluateItems(context, service, body, items))
        },
        {
          service: 'authorization:check',
          ...contract(
            { body: authzen.evaluations },
            { 200: t.Union([authzen.verdicts, authzen.verdict]) },
            {
              summary: 'Access Evaluations: up to 200 in one request. Without `evaluations` it is one evaluation',
              ...documentation,
            },
          ),
        },
      )
      .post(endpoints.search_subject_endpoint, ({ context, body }) => searches.subjects(body, context.deadline), {
        service: 'authorization:list',
        ...contract(
          { body: search.subjectSearch },
          { 200: search.foundEntities },
          { summary: 'Subject Search: the users who may do an action on a resource', ...documentation },
        ),
      })
      .post(endpoints.search_resource_endpoint, ({ context, body }) => searches.resources(body, context.deadline), {
        service: 'authorization:list',
        ...contract(
          { body: search.resourceSearch },
          { 200: search.foundEntities },
          { summary: 'Resource Search: the resources of a type that a user may do an action on', ...documentation },
        ),
      })
      .post(endpoints.search_action_endpoint, ({ context, body }) => searches.actions(body, context.deadline), {
        service: 'authorization:list',
        ...contract(
          { body: search.actionSearch },
          { 200: search.foundActions },
          { summary: 'Action Search: the actions that a user may do on a resource', ...documentation },
        ),
      })
      .get(
        authzen.metadataPath,
        ({ request, set }) => {
          const origin = originOf(config, request)
          set.headers['cache-control'] = 'public, max-age=300'
          return {
            policy_decision_point: origin,
            access_evaluation_endpoint: origin + endpoints.access_evaluation_endpoint,
            access_evaluations_endpoint: origin + endpoints.access_evaluations_endpoint,
            search_subject_endpoint: origin + endpoints.search_subject_endpoint,
            search_resource_endpoint: origin + endpoints.search_resource_endpoint,
            search_action_endpoint: origin + endpoints.search_action_endpoint,
            velro_limits: limits,
          }
        },
        {
          ...contract(
            {},
            { 200: metadata },
            { summary: 'AuthZEN metadata: the URLs of the endpoints, and their limits', tags, open: true },
          ),
        },
      )
  )
}
