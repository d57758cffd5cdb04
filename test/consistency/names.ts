import { pick, type SessionCredential } from './fixture.ts'
import type { Instance } from './instances.ts'
import { send } from './observation.ts'
import type { Oracle } from './oracle.ts'
import type { Population } from './population.ts'

const me = '/api/v1/auth/me'
const everyMs = 50

/** Reads the name that an instance shows of a person. An older one than was due is wrong. */
const read = async (instance: Instance, session: SessionCredential, due: number, oracle: Oracle): Promise<void> => {
  const sentMs = performance.now()
  const answer = await send(instance, session, 'GET', me)
  if (answer?.status !== 200) return
  oracle.counts.names += 1
  const shown = Number(answer.body.display_name)
  if (shown < due) oracle.staleName(instance, shown, due, sentMs)
}

/**
 * Renames a person again and again on any instance, and reads the name on every one: it must be no older than that of the last
 * renaming that was answered before. A renaming without a known outcome may take effect later, so the next one is of
 * another person.
 */
export const renameRepeatedly = async (
  instances: readonly Instance[],
  population: Population,
  oracle: Oracle,
  isRunning: () => boolean,
): Promise<void> => {
  let session: SessionCredential | undefined
  let name = 0
  while (isRunning()) {
    session ??= await population.createSession(await population.createHuman())
    name += 1
    const renamed = await send(pick(instances), session, 'PATCH', me, { display_name: String(name) })
    if (renamed?.status !== 200) session = undefined
    else {
      // A frozen instance answers late, and its answer counts then.
      const reader = session
      const due = name
      const readings = instances.map((instance) => ({ instance, reading: read(instance, reader, due, oracle) }))
      await Promise.all(readings.flatMap(({ instance, reading }) => (instance.responds ? [reading] : [])))
    }
    await Bun.sleep(everyMs)
  }
}
