import { expect, test } from 'bun:test'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { reapFolder } from '../harness/reaper.ts'
import { api, freePort, startApp, type TestAppOptions } from '../harness.ts'

const readinessOf = async (
  config: TestAppOptions['config'],
  change?: (app: Awaited<ReturnType<typeof startApp>>) => void,
) => {
  const app = await startApp({ ...(config && { config }) })
  try {
    change?.(app)
    const { status, body } = await api(app.baseUrl).get('/ready')
    return [status, body]
  } finally {
    await app.close()
  }
}

test('an instance whose MEDIA_DIR cannot be written is ready, and says that it is degraded', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-readiness-'))
  reapFolder(folder)
  const mediaDirectory = join(folder, 'media')
  await mkdir(mediaDirectory)
  // Root may write everywhere, but not create a folder in place of a file.
  await writeFile(join(mediaDirectory, 'drafts'), 'a file')
  const degraded = { status: 'degraded', reasons: ['storage.unavailable'] }
  expect(await readinessOf({ mediaDirectory })).toEqual([200, degraded])
  await rm(join(mediaDirectory, 'drafts'))
  expect(await readinessOf({ mediaDirectory })).toEqual([200, { status: 'ready', reasons: [] }])
})

test('an instance whose S3 does not answer is ready within the limit of a probe, and says that it is degraded', async () => {
  using silent = Bun.listen({ hostname: '127.0.0.1', port: 0, socket: { data: () => {} } })
  const s3 = {
    endpoint: `http://127.0.0.1:${silent.port}`,
    region: 'us-east-1',
    bucket: 'velro',
    accessKeyId: 'id',
    secretAccessKey: 'key',
  }
  expect(await readinessOf({ s3 })).toEqual([200, { status: 'degraded', reasons: ['storage.unavailable'] }])
})

test('an instance without its Redis, or whose queue for notifications fills, is ready and says that it is degraded', async () => {
  const redisUrl = `redis://127.0.0.1:${await freePort()}`
  const degraded = { status: 'degraded', reasons: ['redis.unavailable', 'bus.queue_filling'] }
  const fill = ({ services }: Awaited<ReturnType<typeof startApp>>) => {
    Object.defineProperty(services.notificationQueue, 'isFilling', { value: true })
  }
  expect(await readinessOf({ redisUrl }, fill)).toEqual([200, degraded])
})

test('an instance that is draining is not ready', async () => {
  const notReady = { status: 'not_ready', reasons: ['server.stopping'] }
  const drain = ({ services }: Awaited<ReturnType<typeof startApp>>) => {
    services.lifecycle.draining = true
  }
  expect(await readinessOf(undefined, drain)).toEqual([503, notReady])
})
