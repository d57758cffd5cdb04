import { seedPassword } from '../../../src/boot/seed/large-world.ts'
import { createRandom, type Random } from '../../../src/kit/random.ts'
import { newRedis } from '../crowd.ts'
import { type Measured, measure, type Requests } from '../load/send.ts'
import { checkPlan, createDraft, type Draft, type Mix, prepareMix, startMix, tokensOf } from '../mix.ts'
import { type OpenFga, startBetterAuth, startOpenFga } from '../peers.ts'
import { loginPath, mePath } from '../people.ts'
import type { Finding } from '../report.ts'
import type { Server } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const rounds = 3
const preheatSeconds = 3

type Pair = { readonly what: string; readonly ours: () => Promise<Measured>; readonly theirs: () => Promise<Measured> }

/** Both in turns, after as long a time of each that does not count. */
const comparePair = async (peer: string, { what, ours, theirs }: Pair, atLeast?: number) => {
  const runs = { ours: [] as Measured[], theirs: [] as Measured[] }
  await theirs()
  await ours()
  for (let round = 0; round < rounds; round += 1) {
    runs.theirs.push(await theirs())
    runs.ours.push(await ours())
  }
  const ratios = runs.ours.map(({ perSecond }, round) => perSecond / (runs.theirs[round]?.perSecond ?? Number.NaN))
  const cpu = runs.ours.map(
    ({ costs }, round) => (runs.theirs[round]?.costs?.cpuUs ?? Number.NaN) / (costs?.cpuUs ?? 1),
  )
  const target = atLeast === undefined ? {} : { target: { atLeast } }
  const findings: Finding[] = [
    { what: `${what}: Velro / ${peer}`, unit: 'ratio', values: ratios, ...target },
    { what: `  CPU of ${peer} / of Velro`, unit: 'ratio', values: cpu },
  ]
  return {
    findings,
    sides: [
      { name: `Velro, ${what}`, runs: runs.ours },
      { name: `${peer}, ${what}`, runs: runs.theirs },
    ],
  }
}

const draw = (
  tokens: readonly string[],
  shape: { connections: number; seconds: number },
  next: (draft: Draft, random: Random) => number,
  count = 50_000,
): Requests => {
  const random = createRandom(29)
  const draft = createDraft(tokens)
  return draft.plan([Array.from({ length: count }, () => next(draft, random))], [shape])
}

const checkConnections = 50
const listConnections = 8

const fgaChecks = (mix: Mix, { store, modelId }: OpenFga, seconds: number, count?: number): Requests =>
  draw(
    [],
    { connections: checkConnections, seconds },
    (draft, random) => {
      const { userId, action, resource } = mix.ask(random)
      const tuple_key = { user: `user:${userId}`, relation: `may_${action}`, object: `${resource.type}:${resource.id}` }
      const body = JSON.stringify({ tuple_key, authorization_model_id: modelId })
      return draft.add('check', { method: 'POST', path: `/stores/${store}/check`, body })
    },
    count,
  )

const fgaLists = (mix: Mix, { store, modelId }: OpenFga, seconds: number): Requests =>
  draw(
    [],
    { connections: listConnections, seconds },
    (draft, random) => {
      const user = `user:${mix.ask(random).userId}`
      const body = JSON.stringify({ user, relation: 'may_read', type: 'generation', authorization_model_id: modelId })
      return draft.add('list', { method: 'POST', path: `/stores/${store}/list-objects`, body })
    },
    2_000,
  )

const ourPages = (mix: Mix, seconds: number): Requests =>
  draw(
    tokensOf(mix),
    { connections: listConnections, seconds },
    (draft, random) => {
      const path = '/api/v1/authorization/accessible?type=generation&action=read&limit=100'
      return draft.add('page', { method: 'GET', path }, mix.people.get(mix.ask(random).userId)?.access_token)
    },
    2_000,
  )

/** How many of the questions both answer alike. */
const agreement = async (mix: Mix, velro: Server, fga: OpenFga): Promise<{ asked: number; differing: number }> => {
  const random = createRandom(31)
  const asked = 500
  let differing = 0
  for (let at = 0; at < asked; at += 1) {
    const { userId, action, resource } = mix.ask(random)
    const [ours, theirs] = await Promise.all(
      [
        fetch(`${velro.url}/api/v1/authorization/check`, {
          method: 'POST',
          headers: { authorization: `Bearer ${mix.key}`, 'content-type': 'application/json' },
          body: JSON.stringify({ user_id: userId, action, resource }),
        }),
        fetch(`${fga.url}/stores/${fga.store}/check`, {
          method: 'POST',
          body: JSON.stringify({
            tuple_key: { user: `user:${userId}`, relation: `may_${action}`, object: `${resource.type}:${resource.id}` },
          }),
        }),
      ].map(async (response) => ((await (await response).json()) as { allowed: boolean }).allowed),
    )
    if (ours !== theirs) differing += 1
  }
  return { asked, differing }
}

const walkedLists = 50

/** The mean number of pages of a whole list. */
const pagesOfList = async (mix: Mix, velro: Server): Promise<number> => {
  const random = createRandom(37)
  let pages = 0
  for (let list = 0; list < walkedLists; list += 1) {
    const headers = { authorization: `Bearer ${mix.people.get(mix.ask(random).userId)?.access_token}` }
    for (let cursor: string | null = ''; cursor !== null; pages += 1) {
      const query = `type=generation&action=read&limit=100${cursor === '' ? '' : `&cursor=${encodeURIComponent(cursor)}`}`
      const response: Response = await fetch(`${velro.url}/api/v1/authorization/accessible?${query}`, { headers })
      cursor = ((await response.json()) as { next_cursor: string | null }).next_cursor
    }
  }
  return pages / walkedLists
}

const hotQuestions = 100

/** Checks and lists beside OpenFGA with its caches, over HTTP, on the same Postgres, about the same world. */
export const openfga: Scenario = async ({ seconds }) => {
  const mix = await prepareMix()
  const fga = await startOpenFga(mix)
  const velro = await startMix(mix)
  const { asked, differing } = await agreement(mix, velro, fga)
  const ourChecks = checkPlan(mix, { asker: 'key', connections: checkConnections, seconds })
  const checked = await comparePair('OpenFGA', {
    what: 'check',
    ours: () => measure(velro.url, ourChecks, { pid: velro.pid }),
    theirs: () => measure(fga.url, fgaChecks(mix, fga, seconds), { pid: fga.pid }),
  })
  const hotChecks = checkPlan(mix, { asker: 'key', connections: checkConnections, seconds, count: hotQuestions })
  const hot = await comparePair('OpenFGA', {
    what: `check, a hot set of ${hotQuestions} questions`,
    ours: () => measure(velro.url, hotChecks, { pid: velro.pid }),
    theirs: () => measure(fga.url, fgaChecks(mix, fga, seconds, hotQuestions), { pid: fga.pid }),
  })
  const pages = await pagesOfList(mix, velro)
  const listed = await comparePair('OpenFGA', {
    what: 'pages of 100 a second / whole lists a second',
    ours: () => measure(velro.url, ourPages(mix, seconds), { pid: velro.pid }),
    theirs: () => measure(fga.url, fgaLists(mix, fga, seconds), { pid: fga.pid }),
  })
  return {
    about: `OpenFGA with its caches over HTTP and Velro, ${checkConnections} connections; lists at ${listConnections}`,
    sides: [...checked.sides, ...hot.sides, ...listed.sides],
    findings: [
      {
        what: `questions of ${asked} that both answer differently`,
        unit: 'count',
        values: [differing],
        target: { below: 1 },
      },
      ...checked.findings,
      ...hot.findings,
      ...listed.findings,
      { what: 'pages of a whole list', unit: 'share', values: [pages] },
      {
        what: 'whole lists: Velro / OpenFGA',
        unit: 'ratio',
        values: (listed.findings[0]?.values ?? []).map((ratio) => ratio / pages),
        target: { atLeast: 3 },
      },
    ],
  }
}

const signUpPeers = async (url: string, emails: readonly string[]): Promise<string[]> => {
  const tokens: string[] = []
  for (const email of emails) {
    const response = await fetch(`${url}/api/auth/sign-up/email`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ email, password: seedPassword, name: 'Person' }),
    })
    if (!response.ok) throw new Error(`Better Auth said ${response.status}: ${await response.text()}`)
    tokens.push(response.headers.get('set-auth-token') ?? '')
  }
  return tokens
}

const peopleOfPeer = 50

/** Logins, registrations and the account beside Better Auth with the same argon2id, Postgres and Redis. */
export const betterAuth: Scenario = async ({ seconds }) => {
  const mix = await prepareMix()
  const redis = await newRedis()
  const peer = await startBetterAuth(mix, redis)
  const velro = await startMix(mix, redis)
  const emails = [...mix.people.values()].slice(0, peopleOfPeer).map(({ email }) => email ?? '')
  const tokens = await signUpPeers(peer.url, emails)
  const body = (email: string, more = {}) => JSON.stringify({ email, password: seedPassword, ...more })
  const plans = (
    shape: { connections: number; seconds: number },
    ours: Parameters<typeof draw>[2],
    theirs: typeof ours,
  ) => ({
    ours: () => measure(velro.url, draw(tokensOf(mix), shape, ours, 5_000), { pid: velro.pid }),
    theirs: () => measure(peer.url, draw(tokens, shape, theirs, 5_000), { pid: peer.pid }),
  })
  const compared = []
  compared.push(
    await comparePair(
      'Better Auth',
      {
        what: 'login at 32 connections',
        ...plans(
          { connections: 32, seconds },
          (draft, random) => draft.add('login', { method: 'POST', path: loginPath, body: body(random.pick(emails)) }),
          (draft, random) =>
            draft.add('login', { method: 'POST', path: '/api/auth/sign-in/email', body: body(random.pick(emails)) }),
        ),
      },
      1.1,
    ),
    await comparePair(
      'Better Auth',
      {
        what: 'registration at 16 connections',
        ...plans(
          { connections: 16, seconds },
          (draft) => {
            const request = { method: 'POST', path: '/api/v1/auth/register', status: 201, numbered: true } as const
            return draft.add('registration', { ...request, body: body('new-{n}@example.com') })
          },
          (draft) => {
            const request = { method: 'POST', path: '/api/auth/sign-up/email', numbered: true } as const
            return draft.add('registration', { ...request, body: body('new-{n}@example.com', { name: 'Person' }) })
          },
        ),
      },
      1.1,
    ),
    await comparePair('Better Auth', {
      what: 'the account at 50 connections',
      ...plans(
        { connections: 50, seconds: Math.max(seconds, preheatSeconds) },
        (draft, random) =>
          draft.add('me', { method: 'GET', path: mePath }, random.pick([...mix.people.values()]).access_token),
        (draft, random) => draft.add('me', { method: 'GET', path: '/api/auth/get-session' }, random.pick(tokens)),
      ),
    }),
  )
  return {
    about: 'Better Auth and Velro with the same argon2id parameters, Postgres and Redis',
    sides: compared.flatMap(({ sides }) => sides),
    findings: compared.flatMap(({ findings }) => findings),
  }
}
