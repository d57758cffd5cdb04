import { Elysia } from 'elysia'
import { Fault, invalidInput } from '../fault.ts'
import { contract } from '../http/contract.ts'
import { contextSlot } from '../http/elysia-adapter.ts'
import { patternWords } from '../http/input-errors.ts'
import * as model from './model.ts'
import { type Models, toOffer } from './service.ts'

const tags = ['models']

const idSchema = model.modelParams.properties.model_id
const idPattern = new RegExp(idSchema.pattern ?? '')

/** Decodes the rest of a path and checks it against the schema, which Elysia does not apply to a wildcard. */
const decodeModelId = (rest: string): string => {
  let id = ''
  try {
    id = decodeURIComponent(rest).replace(/\/$/, '')
  } catch {
    // Malformed percent-encoding: the empty id is refused below.
  }
  if (!idPattern.test(id) || id.length > (idSchema.maxLength ?? 0)) {
    throw invalidInput('params', '/model_id', `must be ${patternWords[idSchema.pattern ?? '']}`)
  }
  return id
}

/**
 * A model id contains slashes. A generated client encodes them and matches `/:model_id`; a request with plain slashes matches
 * the wildcard. Both give the same response.
 */
export const modelRoutes = ({ models }: { models: Models }) => {
  const get = (id: string) => {
    const found = models.find(id)
    if (found === undefined) throw new Fault('model.not_found')
    return toOffer(found)
  }
  return new Elysia({ prefix: '/api/v1/models' })
    .decorate(contextSlot)
    .get('', ({ query: { limit = '20', cursor } }) => models.page({ limit: Number(limit), cursor }), {
      ...contract(
        { query: model.page },
        { 200: model.offerPage },
        { summary: 'List all models with their parameters and prices', tags, open: true },
      ),
    })
    .get('/:model_id', ({ params }) => get(params.model_id), {
      ...contract(
        { params: model.modelParams },
        { 200: model.offer },
        { summary: 'Get a model', tags, open: true, errors: ['model.not_found'] },
      ),
    })
    .get('/*', ({ params }) => get(decodeModelId(params['*'])), { detail: { hide: true } })
}
