/** Answers every request with 401 and does nothing else, so that an attack on it shows what it costs others on the same machine. */
const server = Bun.serve({
  port: 0,
  hostname: '127.0.0.1',
  maxRequestBodySize: Number.MAX_SAFE_INTEGER,
  fetch: () => new Response('{"code":"identity.not_signed_in"}', { status: 401 }),
})
process.stdout.write(`${server.port}\n`)
