import { Elysia } from 'elysia'
import { Fault } from '../../fault.ts'
import { contract } from '../../http/contract.ts'
import { originOf, type RequestContext } from '../../http/request-context.ts'
import { t } from '../../http/schema-types.ts'
import type { Access } from '../access.ts'
import type { Guard } from '../guard.ts'
import * as authzen from './authzen.ts'

const tags = ['authzen']
const security = ['service_key'] as const
const errors = ['access.services_only', 'service_key.scope_missing'] as const
/** Every invalid body is a 400 here; see `asAuthzenFault`. */
const omitFaults = ['request.media_type_unsupported'] as const

type Dependencies = { access: Access; guard: Guard; config: { readonly publicUrl: string | undefined } }

/** OpenID AuthZEN Authorization API 1.0, for services. */
export const authzenRoutes = ({ access, guard, config }: Dependencies) => {
  const evaluateAll = async (
    context: RequestContext,
    items: readonly (authzen.Evaluation | authzen.InvalidEvaluation)[],
  ) => {
    const questions = items.map((item) => ('pointer' in item ? item : authzen.toQuestion(item)))
    const asked = questions.filter((question) => 'userId' in question)
    const decisions = await access.decideMany(asked, context.deadline)
    let next = 0
    return questions.map((question) => {
      if ('pointer' in question) return authzen.failed(question)
      if ('denied' in question) return authzen.denied(question.denied)
      return authzen.toVerdict(decisions[next++] as (typeof decisions)[number])
    })
  }

  const evaluate = async (context: RequestContext, evaluation: authzen.Evaluation): Promise<authzen.Verdict> => {
    const question = authzen.toQuestion(evaluation)
    if ('denied' in question) return authzen.denied(question.denied)
    const { userId, action, resource } = question
    return authzen.toVerdict(await access.decide(userId, action, resource, context.deadline))
  }

  const routes = new Elysia()
    .use(guard)
    // The standard requires the X-Request-ID of the request to be returned unchanged.
    .onTransform(({ request, set }) => {
      const given = request.headers.get('x-request-id')
      if (given !== null) set.headers['x-request-id'] = given
    })
    .post('/access/v1/evaluation', ({ context, body }) => evaluate(context, body), {
      service: 'authorization:check',
      ...contract(
        {},
        { 200: authzen.verdict },
        { summary: 'Access Evaluation: one decision', tags, security, errors, omitFaults },
      ),
      body: authzen.evaluation,
    })
    .post(
      '/access/v1/evaluations',
      async ({ context, body }) => {
        const items = body.evaluations ?? []
        if (items.length === 0) {
          const single = authzen.completeEvaluation({}, body)
          if ('pointer' in single) throw new Fault('request.malformed', { problems: [{ in: 'body', ...single }] })
          return evaluate(context, single)
        }
        const verdicts = await evaluateAll(
          context,
          items.map((item) => authzen.completeEvaluation(item, body)),
        )
        return { evaluations: authzen.applySemantic(verdicts, body.options?.evaluations_semantic ?? 'execute_all') }
      },
      {
        service: 'authorization:check',
        ...contract(
          {},
          { 200: t.Union([authzen.verdicts, authzen.verdict]) },
          {
            summary: 'Access Evaluations: up to 200 in one request. Without `evaluations` it is one evaluation',
            tags,
            security,
            errors,
            omitFaults,
          },
        ),
        body: authzen.evaluations,
      },
    )
  const discovery = new Elysia().get(
    '/.well-known/authzen-configuration',
    ({ request }) => {
      const origin = originOf(config, request)
      return {
        policy_decision_point: origin,
        access_evaluation_endpoint: `${origin}/access/v1/evaluation`,
        access_evaluations_endpoint: `${origin}/access/v1/evaluations`,
      }
    },
    {
      ...contract(
        {},
        { 200: authzen.metadata },
        { summary: 'AuthZEN metadata: the URLs of the endpoints', tags, open: true },
      ),
    },
  )
  return new Elysia().use(routes).use(discovery)
}
