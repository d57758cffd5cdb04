import { manualClock } from '../../src/kit/clock.ts'
import { connectOnce, type Sql } from '../../src/platform/postgres.ts'
import { type Api, api, type Person, register, startApp, type TestApp, type TestAppOptions } from '../harness.ts'
import { startReceiver } from './receiver.ts'

/** An instance on a manual clock, a receiver that webhooks of its operator may reach, and an operator. */
export const startWebhookWorld = async (options: TestAppOptions = {}) => {
  const clock = manualClock(Date.now())
  const receiver = await startReceiver()
  const app: TestApp = await startApp({
    clock,
    ...options,
    config: { webhookInternalHosts: [receiver.host], ...options.config },
  })
  const client: Api = api(app.baseUrl)
  const sql: Sql = connectOnce(app.connection)
  const operator: Person = await register(client)
  await sql`update users set role = 'admin' where id = ${operator.id}`
  await app.caughtUp()
  const { webhookSender: sender } = app.services
  let paths = 0

  /** Lets the sender do everything that is due. */
  const work = async () => {
    sender.wake()
    await sender.idle()
  }
  /** Lets time pass until the condition holds, `stepMs` of it at a time, and the sender work at each step. */
  const until = async (holds: () => boolean | Promise<boolean>, what: string, stepMs = 1_500) => {
    for (let step = 0; step < 1_000; step += 1) {
      await work()
      if (await holds()) return
      clock.advance(stepMs)
    }
    throw new Error(`Not within 1,000 steps: ${what}`)
  }

  /** Signs the operator in again: the clock may have passed the lifetime of its token. */
  const signIn = async () => {
    const { email, password } = operator
    operator.token = (await client.post('/api/v1/auth/login', { email, password })).body.access_token
  }

  return {
    /** As the instance reads it: corrected to that of Postgres. */
    clock: { ...clock, now: app.services.clock.now },
    receiver,
    app,
    client,
    sql,
    operator,
    sender,
    work,
    until,

    /** Registers a webhook of the operator on a new path. */
    webhook: async (events: readonly string[], input: object = {}) => {
      paths += 1
      await signIn()
      const path = `/${paths}`
      const { status, body } = await client.post(
        '/api/v1/webhooks',
        { url: receiver.url(path), events, ...input },
        { token: operator.token },
      )
      if (status !== 201) throw new Error(`The registration answered ${status}: ${JSON.stringify(body)}`)
      return {
        id: body.id as string,
        secret: body.secret as string,
        path,
        received: () => receiver.received(path),
        /** Waits for this number of requests, and returns them. */
        wait: async (count: number) => {
          await until(() => receiver.received(path).length >= count, `${count} requests on ${path}`)
          return receiver.received(path)
        },
        remove: () => client.delete(`/api/v1/webhooks/${body.id}`, { token: operator.token }),
      }
    },

    /** The deliveries of a webhook, the oldest first. */
    // biome-ignore lint/suspicious/noExplicitAny: as sent
    deliveries: async (id: string): Promise<any[]> => {
      const answer = await client.get(`/api/v1/webhooks/${id}/deliveries?limit=100`, { token: operator.token })
      return answer.body.items.toReversed()
    },

    signIn,

    close: async () => {
      await sql.end()
      await app.close()
      await receiver.close()
    },
  }
}

export type WebhookWorld = Awaited<ReturnType<typeof startWebhookWorld>>
