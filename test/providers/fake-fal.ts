import sharp from 'sharp'
import { createSafeFetch, type SafeFetch } from '../../src/platform/safe-fetch.ts'
import { digitalSource, xmpWith } from '../harness/photos.ts'
import { connectToFake, file, json, type Received, type Respond, startFakeServer } from './fake-server.ts'

/** The responses to each step of an order, in turn; the last response of a step repeats. */
export type Script = {
  /** Responses to the submissions that come before the one that is accepted. */
  readonly submit?: readonly Respond[]
  readonly status?: readonly Respond[]
  readonly result?: readonly Respond[]
  readonly file?: readonly Respond[]
  readonly cancel?: readonly Respond[]
}

const queued = json({ status: 'IN_QUEUE', queue_position: 1 }, 202)
export const inProgress = json({ status: 'IN_PROGRESS', logs: null }, 202)
export const completed = json({ status: 'COMPLETED', metrics: { inference_time: 0.4 } })

const model = '/fal-ai/flux/schnell'
const requests = '/fal-ai/flux/requests'

export type FakeFal = {
  readonly queueUrl: string
  /** Reaches the files of this server only, independent of the addresses of their hosts. */
  readonly safeFetch: SafeFetch
  /** The output of every order. It says that a model made it, so it is stored as it is. */
  readonly image: Buffer
  /** Scripts the responses to orders with this prompt. */
  script(prompt: string, script: Script): void
  /** Number of submissions with this prompt, and the request ids of those that were accepted. */
  submissions(prompt: string): number
  acceptedIds(prompt: string): readonly string[]
  /** Number of status polls and of cancellations of a request. */
  polls(id: string): number
  cancellations(id: string): number
  close(): Promise<void>
}

/** The documented queue API of fal.ai and its files, for one model, with scripted responses. It keeps every order. */
export const startFakeFal = async (): Promise<FakeFal> => {
  const server = await startFakeServer()
  const noise = { type: 'gaussian', mean: 128, sigma: 20 } as const
  const image = await sharp({ create: { width: 96, height: 64, channels: 3, background: '#246', noise } })
    .withXmp(xmpWith(digitalSource('trainedAlgorithmicMedia')))
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
    server.on(`GET /files/${id}.png`, ...(files ?? [file(image, 'image/png')]))
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
    image,
    script: (prompt, script) => void scripts.set(prompt, script),
    submissions: (prompt) => submissions.get(prompt) ?? 0,
    acceptedIds: (prompt) => taken.get(prompt) ?? [],
    polls: (id) => server.count(`GET ${requests}/${id}/status`),
    cancellations: (id) => server.count(`PUT ${requests}/${id}/cancel`),
    close: server.close,
  }
}
