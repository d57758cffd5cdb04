import { Elysia } from 'elysia'
import { checkPath } from '../people.ts'

const answer = () => ({ allowed: true, reason: 'ownership.project_owner' })

// The body is looked at, or Elysia would see that it need not be read.
new Elysia()
  .get('/ready', () => 'ready')
  .get(checkPath, answer)
  .post(checkPath, ({ body }) => (body === undefined ? undefined : answer()), { parse: 'json' })
  .listen({ hostname: process.env['HOST'] ?? '127.0.0.1', port: Number(process.env['PORT']) })

process.on('SIGTERM', () => process.exit(0))
