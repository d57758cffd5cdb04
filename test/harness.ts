/** Real databases, the application in this process or a separate one, Redis, and an HTTP client. */
export { type Answer, type Api, api, type Person, register, type Sending } from './harness/api.ts'
export { startApp, type TestApp, type TestAppOptions, testSecret } from './harness/app.ts'
export { createDatabase, openDatabase, type TestConnection, type TestDatabase } from './harness/database.ts'
export { createMailbox, type Mailbox, testMailSettings, tokenIn } from './harness/mailbox.ts'
export { freePort, redis, startRedis, type TestRedis } from './harness/redis.ts'
export { type Runtime, startServer, type TestServer, type TestServerOptions } from './harness/server.ts'
