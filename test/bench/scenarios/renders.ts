import sharp from 'sharp'
import type { PicturesReport } from '../controls/velro-with-pictures.ts'
import { newDatabase } from '../databases.ts'
import { interleave } from '../interleave.ts'
import { checkPath, ownCheck, signUp } from '../people.ts'
import { startVelroWithPictures } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const atOnce = 8
const connections = 20
const perSecond = 200
/** How long pictures are rendered before the measurement starts. */
const leadS = 0.5

/** Whether who asks feels it when pictures are made in the same process, by as many workers as it has by default. */
export const renders: Scenario = async ({ send }) => {
  const velro = await startVelroWithPictures(await newDatabase())
  const checked = { url: velro.url + checkPath, ...ownCheck(await signUp(velro.url)), connections, perSecond }
  const noise = { type: 'gaussian', mean: 128, sigma: 20 } as const
  // Rendered here: the thread that first loads the codecs decides the priority of their threads.
  const photo = await sharp({ create: { width: 4_000, height: 3_000, channels: 3, background: '#666', noise } })
    .jpeg({ quality: 90 })
    .toBuffer()
  const tell = async (path: string): Promise<PicturesReport> =>
    (await fetch(`${velro.url}/bench/${path}`, { method: 'POST', body: photo })).json() as Promise<PicturesReport>
  await send({ ...checked, perSecond: 2_000, seconds: 1 })

  /** The checks, and what the process says of the time they took. */
  const beside = async (pictures: number, reports: PicturesReport[]) => {
    await tell(`begin?pictures=${pictures}`)
    await Bun.sleep(leadS * 1_000)
    const measured = await send(checked)
    reports.push(await tell('end'))
    return measured
  }
  await beside(atOnce, [])
  const [busy, quiet]: [PicturesReport[], PicturesReport[]] = [[], []]
  const runs = await interleave(
    { name: 'check, nothing else to do', run: () => beside(0, quiet) },
    { busy: { name: 'check beside pictures', run: () => beside(atOnce, busy) } },
  )
  const p99s = ({ runs: measured }: typeof runs.busy) => measured.map(({ p99Ms }) => p99Ms)
  const lags = (reports: readonly PicturesReport[]) => reports.map(({ lagP99Ms }) => lagP99Ms)
  return {
    about:
      `${perSecond} checks a second, alone and while ${atOnce} renders of 1024 × 1024 ` +
      `and ${atOnce} thumbnails of 12 megapixels are under way all the time`,
    sides: [runs.busy, runs.control],
    findings: [
      { what: 'P99 of check beside pictures', unit: 'ms', values: p99s(runs.busy), target: { below: 20 } },
      { what: 'P99 of check alone', unit: 'ms', values: p99s(runs.control) },
      { what: 'P99 of event-loop lag beside pictures', unit: 'ms', values: lags(busy), target: { below: 10 } },
      { what: 'P99 of event-loop lag alone', unit: 'ms', values: lags(quiet) },
      {
        what: 'one render and one thumbnail',
        unit: 'ms',
        values: busy.map(({ ms, renders: made }) => ms / made),
      },
    ],
  }
}
