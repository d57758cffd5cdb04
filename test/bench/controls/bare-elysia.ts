/** Elysia alone on Bun. */
import { createBareApp } from './bare-app.ts'

/** This process and the others that it starts serve on one port. */
const processes = Number(process.env['PROCESSES'] ?? 1)
const isFirst = process.env['FIRST'] !== 'no'
const others = Array.from({ length: isFirst ? processes - 1 : 0 }, () =>
  Bun.spawn([process.execPath, import.meta.path], { env: { ...process.env, FIRST: 'no' }, stdout: 'ignore' }),
)

createBareApp().listen({
  hostname: process.env['HOST'] ?? '127.0.0.1',
  port: Number(process.env['PORT']),
  reusePort: processes > 1,
})

process.on('SIGTERM', () => {
  for (const other of others) other.kill()
  process.exit(0)
})
