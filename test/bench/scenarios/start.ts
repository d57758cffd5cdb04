import { readFile } from 'node:fs/promises'
import { newExternalDatabase } from '../databases.ts'
import { startVelro } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const starts = 5
const idleMs = 5_000

const residentMb = async (pid: number): Promise<number> => {
  const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]
  return (Number(kilobytes) * 1_024) / 1_000_000
}

/** Time from process start to the first 200 of `GET /ready`, and memory when idle. */
export const start: Scenario = async () => {
  const database = await newExternalDatabase()
  await (await startVelro(database)).stop()
  const readyAfterMs: number[] = []
  const residentMbs: number[] = []
  for (let round = 0; round < starts; round += 1) {
    const velro = await startVelro(database)
    readyAfterMs.push(velro.readyAfterMs)
    if (round === 0) {
      await Bun.sleep(idleMs)
      residentMbs.push(await residentMb(velro.pid))
    }
    await velro.stop()
  }
  return {
    about: `${starts} starts on an external Postgres with nothing to migrate`,
    sides: [],
    findings: [
      { what: 'start to ready', unit: 'ms', values: readyAfterMs, target: { below: 1_000 } },
      { what: 'resident when idle', unit: 'MB', values: residentMbs, target: { below: 150 } },
    ],
  }
}
