import { cpuRatiosTo, interleave, ratiosTo, type Side } from '../interleave.ts'
import { measure, type Requests } from '../load/send.ts'
import { checkPlan, createDraft, type Mix, prepareMix, startMix, tokensOf } from '../mix.ts'
import { checkPath } from '../people.ts'
import type { Finding } from '../report.ts'
import { type Runtime, type Server, startBareElysia, startBareElysiaOnDeno } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const connections = 50
const preheatSeconds = 5

/** One person who asks the same question again and again. */
const singlePlan = (mix: Mix, seconds: number): Requests => {
  const draft = createDraft(tokensOf(mix))
  const project = mix.projects[0]
  const token = mix.people.get(project?.owner_id ?? '')?.access_token
  const body = JSON.stringify({ action: 'write', resource: { type: 'project', id: project?.id } })
  return draft.plan(
    [[draft.add('check', { method: 'POST', path: checkPath, body }, token)]],
    [{ connections, seconds }],
  )
}

/** What is required of a runtime: of the throughput, and of the processor time. */
type Target = { readonly ratio: number; readonly cpuUs?: number }

type Question = { readonly name: string; readonly plan: Requests; readonly target?: Target }

/** The same requests, sent to Velro and to Elysia alone in turns. */
const compare = async (mix: Mix, velro: Server, bare: Server, { name, plan, target }: Question) => {
  const side = (server: string, run: Side['run']): Side => ({ name: `${server}, ${name}`, run })
  const runs = await interleave(
    side('bare Elysia', () => measure(bare.url, plan, { pid: bare.pid })),
    { velro: side('Velro', () => measure(velro.url, plan, mix.watch(velro))) },
  )
  const cpu = runs.velro.runs.map(({ costs }) => costs?.cpuUs ?? Number.NaN)
  const findings: Finding[] = [
    {
      what: `${name}: throughput / bare Elysia`,
      unit: 'ratio',
      values: ratiosTo(runs.control, runs.velro),
      ...(target !== undefined && { target: { atLeast: target.ratio } }),
    },
    { what: '  CPU of bare Elysia / of Velro', unit: 'ratio', values: cpuRatiosTo(runs.control, runs.velro) },
    {
      what: '  server CPU of a request',
      unit: 'us',
      values: cpu,
      ...(target?.cpuUs !== undefined && { target: { below: target.cpuUs } }),
    },
  ]
  return { sides: [runs.velro, runs.control], findings }
}

const startBare: Readonly<Record<Runtime, () => Promise<Server>>> = {
  bun: startBareElysia,
  deno: startBareElysiaOnDeno,
}

const checkOn =
  (runtime: Runtime, target: Target): Scenario =>
  async ({ seconds }) => {
    const mix = await prepareMix()
    const velro = await startMix(mix, {}, runtime)
    const bare = await startBare[runtime]()
    const mixed = (asker: 'token' | 'key', forSeconds: number) =>
      checkPlan(mix, { asker, connections, seconds: forSeconds })
    for (const asker of ['token', 'key'] as const) {
      for (const server of [velro, bare]) await measure(server.url, mixed(asker, preheatSeconds))
    }
    const compared = []
    for (const question of [
      { name: 'own tokens', plan: mixed('token', seconds), target },
      { name: 'service key', plan: mixed('key', seconds), target },
      { name: 'one question', plan: singlePlan(mix, seconds) },
    ]) {
      compared.push(await compare(mix, velro, bare, question))
    }
    const { users, projects, generations } = mix.size
    return {
      about: `checks at ${connections} connections, ${users} people, ${projects} projects, ${generations} generations, 80/20, and the same requests to Elysia alone`,
      sides: compared.flatMap(({ sides }) => sides),
      findings: compared.flatMap(({ findings }) => findings),
    }
  }

/**
 * What Velro adds to Elysia in front of a decision whose facts are in memory: for people with tokens of their own and for a
 * service, who ask what people at work ask, with entries that expire as shipped. Beside it one question of one person.
 */
export const check = checkOn('bun', { ratio: 0.62, cpuUs: 30 })

/** The same on Deno, beside Elysia alone there. */
export const checkOnDeno = checkOn('deno', { ratio: 0.55 })
