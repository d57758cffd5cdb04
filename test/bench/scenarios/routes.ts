import sharp from 'sharp'
import { seedPassword } from '../../../src/boot/seed/large-world.ts'
import { createRandom } from '../../../src/kit/random.ts'
import { cpuRatiosTo, interleave, type Runs, ratiosTo } from '../interleave.ts'
import { measure, type Requests } from '../load/send.ts'
import { type Asker, checkPlan, createDraft, type Draft, type Mix, prepareMix, startMix, tokensOf } from '../mix.ts'
import { batchPath, explainPath, loginPath, mePath } from '../people.ts'
import type { Finding } from '../report.ts'
import { type Server, startBareElysia } from '../servers.ts'
import type { Scenario } from './scenario.ts'

/** What one scenario about a route sends. */
type Route = {
  readonly about: string
  readonly connections: number
  /** Whether Elysia alone answers the same requests beside it. */
  readonly control?: boolean
  /** Whether each measurement needs other requests, because they can be sent once. */
  readonly fresh?: boolean
  readonly requests: (mix: Mix, seconds: number, velro: Server, round: number) => Requests | Promise<Requests>
}

const preheatSeconds = 3
const drawn = 20_000
const rounds = 3

const costFindings = ({ runs }: Runs): Finding[] => [
  { what: 'server CPU of a request', unit: 'us', values: runs.map(({ costs }) => costs?.cpuUs ?? Number.NaN) },
  {
    what: 'Postgres CPU of a request',
    unit: 'us',
    values: runs.map(({ costs }) => costs?.postgresCpuUs ?? Number.NaN),
  },
  {
    what: 'statements of a request',
    unit: 'share',
    values: runs.map(({ costs }) => costs?.statements ?? Number.NaN),
  },
]

/** Sends one kind of request to a server with a world in it, and to Elysia alone where that can answer. */
const routeScenario =
  ({ about, connections, control = false, fresh = false, requests }: Route): Scenario =>
  async ({ seconds }) => {
    const mix = await prepareMix()
    const velro = await startMix(mix)
    const plan = await requests(mix, seconds, velro, 0)
    let round = 0
    const next = async () => {
      round += 1
      return fresh ? requests(mix, seconds, velro, round) : plan
    }
    const preheat = { ...plan, phases: [{ connections, seconds: preheatSeconds }] }
    await measure(velro.url, preheat)
    const run = async () => measure(velro.url, await next(), mix.watch(velro))
    if (!control) {
      const runs = []
      while (runs.length < rounds) runs.push(await run())
      const side = { name: 'Velro', runs }
      const perSecond = {
        what: 'requests a second',
        unit: 'count',
        values: runs.map((each) => each.perSecond),
      } as const
      return { about, sides: [side], findings: [perSecond, ...costFindings(side)] }
    }
    const bare = await startBareElysia()
    await measure(bare.url, preheat)
    const sides = await interleave(
      { name: 'bare Elysia', run: () => measure(bare.url, plan, { pid: bare.pid }) },
      { velro: { name: 'Velro', run } },
    )
    const ratio = {
      what: 'throughput / bare Elysia',
      unit: 'ratio',
      values: ratiosTo(sides.control, sides.velro),
    } as const
    const cpu = {
      what: 'CPU of bare Elysia / of Velro',
      unit: 'ratio',
      values: cpuRatiosTo(sides.control, sides.velro),
    } as const
    return { about, sides: [sides.velro, sides.control], findings: [ratio, cpu, ...costFindings(sides.velro)] }
  }

/** Draws a lane of requests. */
const draw = (
  mix: Mix,
  { connections, seconds }: { connections: number; seconds: number },
  next: (draft: Draft, random: ReturnType<typeof createRandom>) => number,
  count = drawn,
): Requests => {
  const random = createRandom(13)
  const draft = createDraft([...tokensOf(mix), mix.key])
  const lane = Array.from({ length: count }, () => next(draft, random))
  return draft.plan([lane], [{ connections, seconds }])
}

const batchOf = (checks: number, asker: Asker) => (mix: Mix, seconds: number) =>
  draw(
    mix,
    { connections: 16, seconds },
    (draft, random) => {
      const { userId } = mix.ask(random)
      const asked = Array.from({ length: checks }, () => mix.askBy(userId, random))
      const body = JSON.stringify({
        checks: asked.map(({ action, resource }) => ({
          ...(asker === 'key' && { user_id: userId }),
          action,
          resource,
        })),
      })
      const token = asker === 'key' ? mix.key : mix.people.get(userId)?.access_token
      return draft.add(`batch of ${checks}`, { method: 'POST', path: batchPath, body }, token)
    },
    2_000,
  )

const batchScenario = (checks: number) =>
  routeScenario({
    about: `batches of ${checks} checks of one person, at 16 connections`,
    connections: 16,
    control: true,
    requests: batchOf(checks, 'token'),
  })

const own = (path: string | ((mix: Mix, random: ReturnType<typeof createRandom>) => string), connections = 16) => {
  return (mix: Mix, seconds: number) =>
    draw(mix, { connections, seconds }, (draft, random) => {
      const { userId } = mix.ask(random)
      const at = typeof path === 'string' ? path : path(mix, random)
      return draft.add(
        at.replace(/\?.*|\/[0-9a-f-]{36}/g, ''),
        { method: 'GET', path: at },
        mix.people.get(userId)?.access_token,
      )
    })
}

const uploadPicture = async (velro: Server, token: string): Promise<string> => {
  const picture = await sharp({ create: { width: 64, height: 64, channels: 3, background: '#678' } })
    .png()
    .toBuffer()
  const response = await fetch(`${velro.url}/api/v1/media`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'image/png' },
    body: new Uint8Array(picture),
  })
  if (!response.ok) throw new Error(`The upload said ${response.status}: ${await response.text()}`)
  return ((await response.json()) as { id: string }).id
}

const password = JSON.stringify({ password: seedPassword }).slice(1, -1)

/** The scenarios about one route each. */
export const routeScenarios: Readonly<Record<string, Scenario>> = {
  health: routeScenario({
    about: '`GET /health` at 50 connections',
    connections: 50,
    control: true,
    requests: (mix, seconds) =>
      draw(mix, { connections: 50, seconds }, (draft) => draft.add('health', { method: 'GET', path: '/health' })),
  }),
  'batch-50': batchScenario(50),
  'batch-200': batchScenario(200),
  explain: routeScenario({
    about: 'explanations of what people at work ask, at 50 connections',
    connections: 50,
    control: true,
    requests: (mix, seconds) => checkPlan(mix, { asker: 'token', connections: 50, seconds, path: explainPath }),
  }),
  me: routeScenario({
    about: '`GET /auth/me` at 50 connections',
    connections: 50,
    control: true,
    requests: own(mePath, 50),
  }),
  list: routeScenario({
    about: 'a page of 100 projects',
    connections: 16,
    requests: own('/api/v1/projects?limit=100'),
  }),
  accessible: routeScenario({
    about: 'a page of 100 generations that one may read',
    connections: 16,
    requests: own('/api/v1/authorization/accessible?type=generation&action=read&limit=100'),
  }),
  who: routeScenario({
    about: 'a page of 100 people who may read a generation, asked by a service',
    connections: 16,
    requests: (mix, seconds) =>
      draw(mix, { connections: 16, seconds }, (draft, random) => {
        const query = `type=generation&id=${random.pick(mix.generations).id}&action=read&limit=100`
        return draft.add('who', { method: 'GET', path: `/api/v1/authorization/who?${query}` }, mix.key)
      }),
  }),
  create: routeScenario({
    about: 'orders of generations by owners of projects; the jobs stay queued',
    connections: 16,
    requests: (mix, seconds) =>
      draw(mix, { connections: 16, seconds }, (draft, random) => {
        const { id, owner_id } = random.pick(mix.projects)
        const body = JSON.stringify({ project_id: id, model: 'local/procedural', prompt: 'a lighthouse at dusk' })
        const request = { method: 'POST', path: '/api/v1/generations', body, status: 201 } as const
        return draft.add('create', request, mix.people.get(owner_id)?.access_token)
      }),
  }),
  'media-link': routeScenario({
    about: 'signed links to a picture of one’s own',
    connections: 16,
    requests: async (mix, seconds, velro) => {
      const people = [...mix.people.values()].slice(0, 50)
      const paths = new Map<string, string>()
      for (const { access_token } of people) {
        paths.set(access_token, `/api/v1/media/${await uploadPicture(velro, access_token)}/links`)
      }
      return draw(mix, { connections: 16, seconds }, (draft, random) => {
        const { access_token } = random.pick(people)
        const path = paths.get(access_token) ?? ''
        return draft.add('media link', { method: 'POST', path, body: '{}', status: 201 }, access_token)
      })
    },
  }),
  logins: routeScenario({
    about: 'logins of different people, 32 at a time',
    connections: 32,
    requests: (mix, seconds) =>
      draw(mix, { connections: 32, seconds }, (draft, random) => {
        const { email } = random.pick([...mix.people.values()])
        return draft.add('login', { method: 'POST', path: loginPath, body: `{"email":"${email}",${password}}` })
      }),
  }),
  registration: routeScenario({
    about: 'registrations, 16 at a time',
    connections: 16,
    requests: (mix, seconds) =>
      draw(mix, { connections: 16, seconds }, (draft) => {
        const body = `{"email":"new-{n}@example.com",${password}}`
        return draft.add('registration', {
          method: 'POST',
          path: '/api/v1/auth/register',
          body,
          status: 201,
          numbered: true,
        })
      }),
  }),
  refresh: routeScenario({
    about: 'refreshes of 100 sessions, 16 at a time, each with the token of the one before',
    connections: 16,
    fresh: true,
    requests: (mix, seconds, _velro, round) => {
      const people = [...mix.people.values()].slice(100 * round, 100 * round + 100)
      return draw(mix, { connections: 16, seconds }, (draft, random) =>
        draft.add('refresh', {
          method: 'POST',
          path: '/api/v1/auth/refresh',
          body: '{"refresh_token":"{r}"}',
          refreshToken: random.pick(people).refresh_token,
        }),
      )
    },
  }),
}
