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
/** A body that cannot be taken is a 400 here, whatever is wrong with it. */
const omitFaults = ['request.media_type_unsupported'] as const

type Dependencies = { access: Access; guard: Guard; config: { readonly publicUrl: string | undefined } }

/** OpenID AuthZEN Authorization API 1.0, for services. */
export const authzenRoutes = ({ access, guard, config }: Dependencies) => {
  const evaluateAll = async (context: RequestContext, items: readonly (authzen.Evaluation | authzen.Incomplete)[]) => {
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
    // A request's own id, if it has one, goes back with the answer as it came.
    .onTransform(({ request, set }) => {
      const given = request.headers.get('x-request-id')
      if (given !== null) set.headers['x-request-id'] = given
    })
    .post('/access/v1/evaluation', ({ context, body }) => evaluate(context, body), {
      service: 'authorization:check',
      ...contract({}, { 200: authzen.verdict }, { summary: 'Access Evaluation', tags, security, errors, omitFaults }),
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
        const answers = await evaluateAll(
          context,
          items.map((item) => authzen.completeEvaluation(item, body)),
        )
        return { evaluations: authzen.settle(answers, body.options?.evaluations_semantic ?? 'execute_all') }
      },
      {
        service: 'authorization:check',
        ...contract(
          {},
          { 200: t.Union([authzen.verdicts, authzen.verdict]) },
          {
            summary: 'Access Evaluations: up to 200 in one answer; without `evaluations`, one',
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
      const here = originOf(config, request)
      return {
        policy_decision_point: here,
        access_evaluation_endpoint: `${here}/access/v1/evaluation`,
        access_evaluations_endpoint: `${here}/access/v1/evaluations`,
      }
    },
    { ...contract({}, { 200: authzen.metadata }, { summary: 'Where the AuthZEN endpoints are', tags, open: true }) },
  )
  return new Elysia().use(routes).use(discovery)
}
