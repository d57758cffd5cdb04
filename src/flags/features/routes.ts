import { Elysia } from 'elysia'
import type { Guard } from '../../access/guard/guard.ts'
import { contract } from '../../http/contract.ts'
import { createdAt } from '../../http/created.ts'
import { noContent, toPlace } from '../../http/schema-types.ts'
import { mapMaybePromise } from '../../kit/maybe-promise.ts'
import type { FlagEvaluator } from './evaluator.ts'
import * as model from './model.ts'
import type { FeatureFlags } from './service.ts'

const tags = ['security']
const refused = ['access.admins_only'] as const
const changing = [...refused, 'session.reauthentication_required'] as const

type Dependencies = {
  featureFlags: FeatureFlags
  flagEvaluator: FlagEvaluator
  guard: Guard
  addressOf: (request: Request) => string
}

export const featureFlagRoutes = ({ featureFlags, flagEvaluator, guard, addressOf }: Dependencies) =>
  new Elysia({ prefix: '/api/v1' })
    .use(guard)
    .get(
      '/feature-flags',
      ({ context, caller }) =>
        mapMaybePromise(flagEvaluator.evaluate(caller, context.deadline), (flags) => ({ flags })),
      {
        signedIn: true,
        ...contract(
          {},
          { 200: model.evaluatedFlags },
          { summary: 'Which features are on for you. From memory, so it may be asked often', tags: ['auth'] },
        ),
      },
    )
    .get('/security/feature-flags', ({ context, query }) => featureFlags.list(context, toPlace(query)), {
      operator: true,
      ...contract(
        { query: model.page },
        { 200: model.flagPage },
        { summary: 'List feature flags, those added last first', tags, errors: refused },
      ),
    })
    .get('/security/feature-flags/:name', ({ context, params }) => featureFlags.get(context, params.name), {
      operator: true,
      ...contract(
        { params: model.flagParams },
        { 200: model.flag },
        { summary: 'Read a feature flag', tags, errors: [...refused, 'feature_flag.not_found'] },
      ),
    })
    .put(
      '/security/feature-flags/:name',
      async ({ context, caller, params, body, request, set, status }) => {
        const { flag, added } = await featureFlags.put(context, caller, params.name, body, addressOf(request))
        if (!added) return flag
        return status(
          201,
          createdAt(set, ({ name }) => `/api/v1/security/feature-flags/${name}`, flag),
        )
      },
      {
        recently: 'operator',
        ...contract(
          { params: model.flagParams, body: model.flagInput },
          { 200: model.flag, 201: model.flag },
          {
            summary:
              'Add a feature flag, or replace its definition whole; in effect on every instance when this responds',
            tags,
            errors: [...changing, 'feature_flag.changed', 'feature_flag.too_many'],
          },
        ),
      },
    )
    .delete(
      '/security/feature-flags/:name',
      async ({ context, caller, params, request, status }) => {
        await featureFlags.remove(context, caller, params.name, addressOf(request))
        return status(204, undefined)
      },
      {
        recently: 'operator',
        ...contract(
          { params: model.flagParams },
          { 204: noContent },
          {
            summary: 'Remove a feature flag: it is off for all users. It can be restored for 90 days',
            tags,
            errors: [...changing, 'feature_flag.not_found'],
          },
        ),
      },
    )
    .get(
      '/security/feature-flags/:name/versions',
      ({ context, params, query }) => featureFlags.listVersions(context, params.name, toPlace(query)),
      {
        operator: true,
        ...contract(
          { params: model.flagParams, query: model.page },
          { 200: model.flagVersionPage },
          {
            summary: 'List the last 50 versions of a feature flag, newest first, those of a removed one too',
            tags,
            errors: [...refused, 'feature_flag.not_found'],
          },
        ),
      },
    )
    .post(
      '/security/feature-flags/:name/restore',
      ({ context, caller, params, body, request }) =>
        featureFlags.restore(context, caller, params.name, body, addressOf(request)),
      {
        recently: 'operator',
        ...contract(
          { params: model.flagParams, body: model.restoreInput },
          { 200: model.flag },
          {
            summary:
              'Restore an earlier version of a feature flag; in effect on every instance when this responds. Without a version it goes back to the one before',
            tags,
            errors: [
              ...changing,
              'feature_flag.not_found',
              'feature_flag.version_not_found',
              'feature_flag.changed',
              'feature_flag.too_many',
            ],
          },
        ),
      },
    )
