import type { PicturesReport } from '../controls/velro-with-pictures.ts'
import { newDatabase } from '../databases.ts'
import { interleave, type Side } from '../interleave.ts'
import type { Measured } from '../load/send.ts'
import { checkPath, loginPath, mePath, ownCheck, signUp } from '../people.ts'
import { startVelroWithPictures } from '../servers.ts'
import type { Scenario } from './scenario.ts'

const loginsInFlight = 64
const connections = 20
const perSecond = 200
/** How long the logins run before the measurement starts. */
const leadS = 0.5

/** Whether the other requests feel it when everybody signs in at once. */
export const checkUnderLogins: Scenario = async ({ seconds, send }) => {
  // It makes no pictures here; it reports the lag of its event loop.
  const velro = await startVelroWithPictures(await newDatabase())
  const call = async (path: string): Promise<PicturesReport> =>
    (await fetch(`${velro.url}/bench/${path}`, { method: 'POST', body: 'x' })).json() as Promise<PicturesReport>
  const person = await signUp(velro.url)
  const probe = { connections, perSecond }
  const checked = { url: velro.url + checkPath, ...ownCheck(person), ...probe }
  const me = { url: velro.url + mePath, headers: person.headers, ...probe }
  const logins = {
    url: velro.url + loginPath,
    method: 'POST',
    body: person.credentials,
    connections: loginsInFlight,
  } as const
  await send({ ...checked, perSecond: 2_000, seconds: 1 })
  await send({ ...me, perSecond: 2_000, seconds: 1 })
  await send({ ...logins, seconds: 1 })

  const loginRuns: Measured[] = []
  const lagsMs: number[] = []
  const underLogins = async (load: typeof checked | typeof me): Promise<Measured> => {
    const [loggedIn, measured] = await Promise.all([
      send({ ...logins, seconds: seconds + 2 * leadS }),
      Bun.sleep(leadS * 1_000).then(async () => {
        await call('begin?pictures=0')
        const result = await send(load)
        lagsMs.push((await call('end')).lagP99Ms)
        return result
      }),
    ])
    loginRuns.push(loggedIn)
    return measured
  }
  const side = (name: string, run: Side['run']): Side => ({ name, run })
  const runs = await interleave(
    side('check', () => send(checked)),
    {
      checked: side('check under logins', () => underLogins(checked)),
      quietMe: side('auth/me', () => send(me)),
      me: side('auth/me under logins', () => underLogins(me)),
    },
  )
  const p99s = ({ runs: measured }: { runs: readonly Measured[] }) => measured.map(({ p99Ms }) => p99Ms)
  return {
    about: `${perSecond} requests a second, alone and while ${loginsInFlight} logins are in flight`,
    sides: [runs.checked, runs.control, runs.me, runs.quietMe, { name: 'the logins', runs: loginRuns }],
    findings: [
      { what: 'P99 of check under logins', unit: 'ms', values: p99s(runs.checked), target: { below: 20 } },
      { what: 'P99 of check alone', unit: 'ms', values: p99s(runs.control) },
      { what: 'P99 of auth/me under logins', unit: 'ms', values: p99s(runs.me), target: { below: 20 } },
      { what: 'P99 of event-loop lag under logins', unit: 'ms', values: lagsMs, target: { below: 10 } },
      { what: 'P99 of auth/me alone', unit: 'ms', values: p99s(runs.quietMe) },
    ],
  }
}
