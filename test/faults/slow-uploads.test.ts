import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { connect, type Socket } from 'node:net'
import { newPicture } from '../harness/pictures.ts'
import { type Api, api, type Person, type Runtime, register, startServer, type TestServer } from '../harness.ts'
import { headOf } from '../http/black-box/wire.ts'

const path = '/api/v1/media'
const accounts = 6
const uploadsEach = 4

for (const runtime of ['bun', 'deno'] as const satisfies Runtime[]) {
  describe(`uploads of ${accounts} accounts that send some bytes a second, on ${runtime}`, () => {
    let server: TestServer
    let client: Api
    let slow: Socket[] = []
    let dripping: ReturnType<typeof setInterval>
    let answers = ''

    const open = async ({ token }: Person) => {
      const { hostname, port } = new URL(server.baseUrl)
      const socket = connect({ host: hostname, port: Number(port) })
      socket.on('error', () => {})
      socket.on('data', (chunk) => {
        answers += chunk
      })
      await new Promise<void>((resolve) => socket.once('connect', () => resolve()))
      const headers = { authorization: `Bearer ${token}`, 'content-type': 'image/png', 'content-length': '20000000' }
      socket.write(headOf('POST', path, headers))
      return socket
    }
    beforeAll(async () => {
      server = await startServer({ runtime, env: { RENDER_WORKERS: '1' } })
      client = api(server.baseUrl)
      const attackers = await Promise.all(Array.from({ length: accounts }, () => register(client)))
      slow = await Promise.all(attackers.flatMap((each) => Array.from({ length: uploadsEach }, () => open(each))))
      const drip = () => {
        for (const socket of slow) if (!socket.destroyed) socket.write('some bytes')
      }
      dripping = setInterval(drip, 50)
      drip()
    })
    afterAll(async () => {
      clearInterval(dripping)
      for (const socket of slow) socket.destroy()
      await server.stop()
    })

    test('leave room for those of others', async () => {
      // Every slow upload is under way: none was refused.
      expect(answers).toBe('')
      const others = await Promise.all(Array.from({ length: 4 }, () => register(client)))
      const bytes = await newPicture()
      const uploads = others.map(({ token }) =>
        client.post(path, new Uint8Array(bytes), { token, headers: { 'content-type': 'image/png' } }),
      )
      expect((await Promise.all(uploads)).map(({ status, body }) => [status, body.code])).toEqual(
        others.map(() => [201, undefined]),
      )
    })
  })
}
