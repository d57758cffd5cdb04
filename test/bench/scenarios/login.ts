import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { Argon2Job } from '../controls/argon2-alone.ts'
import { newDatabase } from '../databases.ts'
import { interleave, ratiosTo } from '../interleave.ts'
import type { Measured } from '../load/send.ts'
import { loginPath, signUp } from '../people.ts'
import { startVelro } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const outstanding = 8
const workers = Math.max(1, availableParallelism() - 1)

const argon2Alone = async (job: Argon2Job): Promise<Measured> => {
  const file = fileURLToPath(new URL('../controls/argon2-alone.ts', import.meta.url))
  const child = Bun.spawn([process.execPath, file, JSON.stringify(job)], { stdout: 'pipe', stderr: 'inherit' })
  return new Response(child.stdout).json()
}

/** The cost of a login beside its password hash: every login also reads the account and writes a session. */
export const login: Scenario = async ({ seconds, send }) => {
  const velro = await startVelro({ ...(await newDatabase()), HASH_WORKERS: String(workers) })
  const { credentials: body } = await signUp(velro.url)
  const load = { url: velro.url + loginPath, method: 'POST', body, connections: outstanding } as const
  await send({ ...load, seconds: 1 })
  const runs = await interleave(
    { name: 'argon2 alone', run: () => argon2Alone({ workers, outstanding, seconds }) },
    { velro: { name: 'Velro, login', run: () => send(load) } },
  )
  return {
    about: `logins, ${outstanding} at a time, and argon2 alone on as many workers (${workers})`,
    sides: [runs.velro, runs.control],
    findings: [
      {
        what: 'Velro / argon2 alone',
        unit: 'ratio',
        values: ratiosTo(runs.control, runs.velro),
        target: { atLeast: 0.85 },
      },
    ],
  }
}
