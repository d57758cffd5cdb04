/** The answers of Velro by Elysia alone: the same requests, and the answer at hand. */
import { Elysia } from 'elysia'
import { batchPath, checkPath, explainPath, mePath } from '../people.ts'

const decision = { allowed: true, reason: 'ownership.project_owner' }
const layers = Array.from({ length: 10 }, (_, index) => ({
  ...{ layer: index + 1, name: 'resource_existence', verdict: 'abstain', reason: 'resource.exists', tier: null },
}))
const user = {
  ...{ id: '01890000-0000-7000-8000-000000000000', email: 'person@example.com', display_name: 'Person' },
  ...{ role: 'user', plan: 'free', created_at: '2024-01-01T00:00:00.000Z', updated_at: '2024-01-01T00:00:00.000Z' },
}

type Checks = { readonly checks: readonly unknown[] }
const isBatch = (body: unknown): body is Checks => typeof body === 'object' && body !== null && 'checks' in body

// The bodies are looked at, or Elysia would see that they need not be read.
export const createBareApp = () =>
  new Elysia()
    .get('/ready', () => 'ready')
    .get('/health', () => ({ status: 'ok' }))
    .get(checkPath, () => ({ ...decision }))
    .get(mePath, () => ({ ...user }))
    .post(checkPath, ({ body }) => (body === undefined ? undefined : { ...decision }), { parse: 'json' })
    .post(explainPath, ({ body }) => (body === undefined ? undefined : { ...decision, layers }), { parse: 'json' })
    .post(
      batchPath,
      ({ body }) => (isBatch(body) ? { results: body.checks.map(() => ({ ...decision })) } : undefined),
      {
        parse: 'json',
      },
    )
