import { newDatabase } from '../databases.ts'
import { interleave, ratiosTo } from '../interleave.ts'
import { checkPath, fillMemory, ownCheck, signUp } from '../people.ts'
import { startBareElysia, startVelro } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const connections = 50
const maxWarmUpS = 2
const facts = 10_000

/** What Velro adds to Elysia in front of a decision whose facts are in memory, among as many others as fit. */
export const check: Scenario = async ({ seconds, send }) => {
  const velro = await startVelro({ ...(await newDatabase()), L1_MAX_ENTRIES: String(facts) })
  const bare = await startBareElysia()
  const person = await signUp(velro.url)
  const question = ownCheck(person)
  const loads = {
    bare: { url: bare.url + checkPath, ...question, connections },
    velro: { url: velro.url + checkPath, ...question, connections },
    get: { url: bare.url + checkPath, connections },
  }
  await fillMemory(velro.url, person, facts)
  for (const load of Object.values(loads)) await send({ ...load, seconds: Math.min(maxWarmUpS, seconds) })
  const runs = await interleave(
    { name: 'bare Elysia, POST', run: () => send(loads.bare) },
    {
      velro: { name: 'Velro, POST', run: () => send(loads.velro) },
      get: { name: 'bare Elysia, GET', run: () => send(loads.get) },
    },
  )
  return {
    about: `a warm authorized check at ${connections} connections, and the same answer from Elysia alone`,
    sides: [runs.velro, runs.control, runs.get],
    findings: [
      {
        what: 'Velro / bare Elysia, both POST',
        unit: 'ratio',
        values: ratiosTo(runs.control, runs.velro),
        target: { atLeast: 0.6 },
      },
      {
        what: 'Velro POST / bare Elysia GET',
        unit: 'ratio',
        values: runs.velro.runs.map(
          ({ perSecond }, round) => perSecond / (runs.get.runs[round]?.perSecond ?? Number.NaN),
        ),
      },
    ],
  }
}
