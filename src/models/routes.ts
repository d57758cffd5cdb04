import { Elysia } from 'elysia'
import { Fault, invalidInput } from '../fault.ts'
import { contract } from '../http/contract.ts'
import * as model from './model.ts'
import { type Models, toOffer } from './service.ts'

const tags = ['models']

const idOf = model.modelParams.properties.model_id
const idPattern = new RegExp(idOf.pattern ?? '')

/** What is left of a path, its percent-encoding undone. Held against the schema by hand: a router has no name for it. */
const idOfRest = (rest: string): string => {
  let id = ''
  try {
    id = decodeURIComponent(rest).replace(/\/$/, '')
  } catch {
    // Not percent-encoding; what is empty fits nothing.
  }
  if (!idPattern.test(id) || id.length > (idOf.maxLength ?? 0)) {
    throw invalidInput('params', '/model_id', 'Not the id of a model')
  }
  return id
}

/**
 * The ids of models have slashes in them. A client that encodes them, as OpenAPI has it, meets the one route, a person
 * who does not the other; they answer alike.
 */
export const modelRoutes = ({ models }: { models: Models }) => {
  const get = (id: string) => {
    const found = models.find(id)
    if (found === undefined) throw new Fault('model.not_found')
    return toOffer(found)
  }
  return new Elysia({ prefix: '/api/v1/models' })
    .get('', ({ query: { limit = '20', cursor } }) => models.page({ limit: Number(limit), cursor }), {
      ...contract(
        { query: model.page },
        { 200: model.offerPage },
        { summary: 'All models, with what each takes and costs', tags, open: true },
      ),
    })
    .get('/:model_id', ({ params }) => get(params.model_id), {
      ...contract(
        { params: model.modelParams },
        { 200: model.offer },
        { summary: 'One model', tags, open: true, errors: ['model.not_found'] },
      ),
    })
    .get('/*', ({ params }) => get(idOfRest(params['*'])), { detail: { hide: true } })
}
