import { setTimeout as delay } from 'node:timers/promises'
import { isPublicAddress } from '../kit/public-address.ts'
import { describeConnectionUrl } from './connection-url.ts'
import type { Log } from './log.ts'
import { type Connection, connect, isBusy, type Transport } from './postgres.ts'

/** A reason not to start: the server is older than the oldest version that the SQL is written for. */
export class PostgresTooOld extends Error {
  override readonly name = 'PostgresTooOld'
}

const oldestMajor = 15

const serverOf = (connection: Connection): string =>
  typeof connection === 'string' ? describeConnectionUrl(connection).server : connection.host

const requireVersion = (version: string, server: string): void => {
  if (Number.parseInt(version, 10) >= oldestMajor) return
  throw new PostgresTooOld(
    `Postgres at ${server} has version ${version}; Velro needs Postgres ${oldestMajor} or newer. Upgrade it, or name another server in DATABASE_URL.`,
  )
}

export const warnOfPlainText = ({ encrypted, address = '' }: Transport, variable: string, log: Log): void => {
  if (encrypted || !isPublicAddress(address)) return
  log.warn(
    { event: 'database.plain_text', variable, address },
    `the connection of ${variable} to a public address is not encrypted: use a server with TLS and sslmode=require or verify-full`,
  )
}

/**
 * Connects once. Throws `PostgresTooOld` for a server older than Postgres 15, or the error of the connection. Warns of plain
 * text to a public address; `variable` is the name of the variable that gives the connection.
 */
export const checkServer = async (connection: Connection, variable: string, log: Log): Promise<void> => {
  const sql = connect(connection, {
    max: 1,
    fetch_types: false,
    connection: { application_name: 'velro:start' },
    onconnected: (transport) => warnOfPlainText(transport, variable, log),
  })
  try {
    await sql`select 1`
    requireVersion(String(sql.parameters['server_version']), serverOf(connection))
  } finally {
    await sql.end({ timeout: 0 })
  }
}

const maxDelayMs = 8_000

type Retrying = {
  readonly connection: Connection
  /** Gets a line about each pause. */
  readonly report: (line: string) => void
  readonly limitMs?: number
  readonly firstDelayMs?: number
}

/**
 * Runs the work again, after growing pauses and for a minute, while the server has no connection left or is itself starting.
 * Then, and for any other error, throws the error.
 */
export const retryWhileBusy = async <T>(
  work: () => Promise<T>,
  { connection, report, limitMs = 60_000, firstDelayMs = 500 }: Retrying,
): Promise<T> => {
  const startedMs = performance.now()
  for (let delayMs = firstDelayMs; ; delayMs = Math.min(2 * delayMs, maxDelayMs)) {
    try {
      return await work()
    } catch (error) {
      const leftMs = limitMs - (performance.now() - startedMs)
      if (!isBusy(error) || leftMs <= 0) throw error
      const pauseMs = Math.min(delayMs, leftMs)
      report(
        `Postgres at ${serverOf(connection)} has no connection left or is starting. Next try in ${(pauseMs / 1_000).toFixed(1)} s; the start gives up in ${Math.ceil(leftMs / 1_000)} s.`,
      )
      await delay(pauseMs)
    }
  }
}
