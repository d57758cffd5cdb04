import { newDatabase } from '../databases.ts'
import { interleave, ratiosTo } from '../interleave.ts'
import { checkPath, explainPath, fillMemory, ownCheck, signUp } from '../people.ts'
import { startVelro } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const connections = 50
const maxWarmUpS = 2
const facts = 10_000

/** The cost of explaining the result of each of the ten layers. */
export const explain: Scenario = async ({ seconds, send }) => {
  const velro = await startVelro({ ...(await newDatabase()), L1_MAX_ENTRIES: String(facts) })
  const person = await signUp(velro.url)
  const question = ownCheck(person)
  const check = { url: velro.url + checkPath, ...question, connections }
  const explanation = { url: velro.url + explainPath, ...question, connections }
  await fillMemory(velro.url, person, facts)
  for (const load of [check, explanation]) await send({ ...load, seconds: Math.min(maxWarmUpS, seconds) })
  const runs = await interleave(
    { name: 'check', run: () => send(check) },
    { explain: { name: 'explain', run: () => send(explanation) } },
  )
  return {
    about: `the same question at ${connections} connections, with an explanation and without`,
    sides: [runs.explain, runs.control],
    findings: [
      {
        what: 'explain / check',
        unit: 'ratio',
        values: ratiosTo(runs.control, runs.explain),
        target: { atLeast: 0.95 },
      },
    ],
  }
}
