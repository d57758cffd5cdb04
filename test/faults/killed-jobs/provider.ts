import sharp from 'sharp'
import { type FakeServer, json, startFakeServer } from '../../providers/fake-server.ts'

const pictures = 8
const refusedShare = 0.3
const maxDelayMs = 1_500

/** A fake of OpenAI that returns one of 8 pictures after a random delay, and refuses 30 % of the orders. */
export const startProvider = async (): Promise<FakeServer> => {
  const server = await startFakeServer()
  const drawn = await Promise.all(
    Array.from({ length: pictures }, (_, number) =>
      sharp({ create: { width: 64, height: 64, channels: 3, background: { r: number * 20, g: 99, b: 150 } } })
        .png()
        .toBuffer(),
    ),
  )
  server.on('POST /v1/images/generations', (response, received) => {
    const picture = drawn[Math.floor(Math.random() * pictures)]?.toString('base64')
    const refused = Math.random() < refusedShare
    const act = refused ? json({ error: { message: 'no' } }, 400) : json({ data: [{ b64_json: picture }] })
    setTimeout(() => act(response, received), Math.random() * maxDelayMs)
  })
  return server
}
