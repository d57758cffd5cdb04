/** Elysia alone on Deno. */
import { createBareApp } from './bare-app.ts'

declare const Deno: {
  serve(options: { hostname: string; port: number }, fetch: (request: Request) => Response | Promise<Response>): unknown
}

Deno.serve({ hostname: process.env['HOST'] ?? '127.0.0.1', port: Number(process.env['PORT']) }, createBareApp().fetch)

process.on('SIGTERM', () => process.exit(0))
