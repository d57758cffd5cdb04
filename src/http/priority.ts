import type { Priority } from '../kit/admission.ts'
import { pathOf } from '../kit/authority.ts'

/** Besides DELETE and PUT, the routes that can take access away, and so go before all others under overload. */
const revocations = [
  /^PATCH \/api\/v1\/(?:projects|generations|users)\/:id$/,
  /^PATCH \/api\/v1\/(?:projects\/:id\/teams|teams\/:id\/members)\/:id$/,
  /^POST \/api\/v1\/auth\/(?:logout|logout-all|password)$/,
  /^POST \/api\/v1\/security\/blocks$/,
  /^POST \/api\/v1\/(?:teams\/:id\/leave|teams\/:id\/transfer|projects\/:id\/transfer)$/,
  /^POST \/api\/v1\/security\/feature-flags\/[^/]+\/restore$/,
]
const reads = /^(?:GET|HEAD) |^POST (?:\/api\/v1\/authorization|\/access\/v1)\/|^POST \/api\/v1\/media\/links$/

const id = /[0-9a-f]{8}-[0-9a-f-]{27}/gi

/** The method and the path of a request, with `:id` for each id: requests that cost about the same. */
export const kindOf = ({ method, url }: Request): string => `${method} ${pathOf(url).replace(id, ':id')}`

/** In the order of admission: what takes access away, then what only reads, then the rest. */
export const priorityOf = (request: Request): Priority => {
  const { method } = request
  if (method === 'DELETE' || method === 'PUT') return 'revocation'
  const kind = kindOf(request)
  if (reads.test(kind)) return 'read'
  return revocations.some((revocation) => revocation.test(kind)) ? 'revocation' : 'other'
}
