import sharp from 'sharp'
import { createSafeFetch, type SafeFetch } from '../../src/platform/safe-fetch.ts'
import { type Act, connectToFake, file, json, type Received, startFakeServer } from './fake-server.ts'

/** What is done about an order, step by step; the last of each is done from then on. */
export type Script = {
  /** Before it is taken; what is left unsaid is taken. */
  readonly submit?: readonly Act[]
  readonly status?: readonly Act[]
  readonly result?: readonly Act[]
  readonly file?: readonly Act[]
  readonly cancel?: readonly Act[]
}

const queued = json({ status: 'IN_QUEUE', queue_position: 1 }, 202)
export const inProgress = json({ status: 'IN_PROGRESS', logs: null }, 202)
export const completed = json({ status: 'COMPLETED', metrics: { inference_time: 0.4 } })

const model = '/fal-ai/flux/schnell'
const requests = '/fal-ai/flux/requests'

export type FakeFal = {
  readonly queueUrl: string
  /** Reaches its files, and them alone, whatever addresses their names have. */
  readonly safeFetch: SafeFetch
  /** What it makes of everything. */
  readonly picture: Buffer
  /** What is done about orders with this prompt. */
  script(prompt: string, script: Script): void
  /** How often it was asked to make this, and what it took. */
  submitted(prompt: string): number
  taken(prompt: string): readonly string[]
  /** How often it was asked: how far one is, and not to make it. */
  looked(id: string): number
  cancelled(id: string): number
  close(): Promise<void>
}

/** The queue of fal.ai and its files, as documented, for one model; it forgets nothing, and does as it is told. */
export const startFakeFal = async (): Promise<FakeFal> => {
  const server = await startFakeServer()
  const noise = { type: 'gaussian', mean: 128, sigma: 20 } as const
  const picture = await sharp({ create: { width: 96, height: 64, channels: 3, background: '#246', noise } })
    .png()
    .toBuffer()
  const scripts = new Map<string, Script>()
  const submissions = new Map<string, number>()
  const taken = new Map<string, string[]>()
  let number = 0
  const promptOf = ({ body }: Received) => (body as { prompt: string }).prompt

  const take = (prompt: string): string => {
    number += 1
    const id = `request-${number}`
    taken.set(prompt, [...(taken.get(prompt) ?? []), id])
    const { status, result, file: files, cancel } = scripts.get(prompt) ?? {}
    const path = `${requests}/${id}`
    const images = [{ url: `https://v3.fal.media/files/${id}.png`, content_type: 'image/png' }]
    server.on(`GET ${path}/status`, ...(status ?? [queued, inProgress, completed]))
    server.on(`GET ${path}`, ...(result ?? [json({ images, has_nsfw_concepts: [false] })]))
    server.on(`GET /files/${id}.png`, ...(files ?? [file(picture, 'image/png')]))
    server.on(`PUT ${path}/cancel`, ...(cancel ?? []), json({ status: 'CANCELLATION_REQUESTED' }, 202))
    return id
  }
  server.on(`POST ${model}`, (response, received) => {
    const prompt = promptOf(received)
    const before = submissions.get(prompt) ?? 0
    submissions.set(prompt, before + 1)
    const acts = scripts.get(prompt)?.submit ?? []
    const act = acts[before] ?? (() => json({ status: 'IN_QUEUE', request_id: take(prompt) })(response, received))
    act(response, received)
  })
  const { connect } = connectToFake(server)
  return {
    queueUrl: server.baseUrl,
    safeFetch: createSafeFetch({ resolve: async () => ['93.184.215.14'], connect }),
    picture,
    script: (prompt, script) => void scripts.set(prompt, script),
    submitted: (prompt) => submissions.get(prompt) ?? 0,
    taken: (prompt) => taken.get(prompt) ?? [],
    looked: (id) => server.count(`GET ${requests}/${id}/status`),
    cancelled: (id) => server.count(`PUT ${requests}/${id}/cancel`),
    close: server.close,
  }
}
