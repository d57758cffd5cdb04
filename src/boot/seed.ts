import { writeFile } from 'node:fs/promises'
import process from 'node:process'
import { parseArgs } from 'node:util'
import { hash } from '@node-rs/argon2'
import { type Config, maxAccessTokenTtlMs, parseConfig } from '../config.ts'
import { argon2Options } from '../identity/passwords.ts'
import { createLog } from '../platform/log.ts'
import { connectOnce } from '../platform/postgres.ts'
import { sha256 } from '../platform/secrets.ts'
import { openDatabase } from './open-database.ts'
import { prepareDatabase } from './prepare-database.ts'
import { createLargeWorld, seedEmail, seedPassword, type WorldSize } from './seed/large-world.ts'
import { signIn } from './seed/signed-in.ts'
import { SeedFailed, seedSmallWorld } from './seed/small-world.ts'
import { hasAccounts, writeWorld } from './seed/world-store.ts'
import { describeStartFailure } from './start-failure.ts'

const usage = `bun run seed
  Fills a running service with a small world through its API. VELRO_URL names the service.

bun run seed --users N --teams N --projects N --generations N [--seed N] [--tokens FILE [--signed-in N]] [--into-existing]
  Fills the database of the configuration with a world of that size. The same seed (default 1) gives the same rows.
  --tokens FILE     signs in as many people as --signed-in says (default 1,000, at most all) and writes their tokens
                    to the file, one JSON object a line
  --into-existing   also into a database that has accounts`

const sizes = ['users', 'teams', 'projects', 'generations'] as const
const maxRows = 100_000_000

const report = (line: string): void => console.error(line)
const figure = (value: number) => value.toLocaleString('en')

type Order = {
  readonly size: WorldSize
  readonly seed: number
  readonly tokens: string | undefined
  readonly signedIn: number
  readonly intoExisting: boolean
}

/** Undefined: the small world. */
const parseOrder = (args: readonly string[]): Order | undefined => {
  if (args.length === 0) return undefined
  const text = { type: 'string' } as const
  const { values } = parseArgs({
    args: [...args],
    options: {
      help: { type: 'boolean' },
      ...{ users: text, teams: text, projects: text, generations: text, seed: text, tokens: text, 'signed-in': text },
      'into-existing': { type: 'boolean' },
    },
  })
  if (values.help) {
    console.log(usage)
    process.exit(0)
  }
  const wholeNumber = (name: (typeof sizes)[number] | 'seed' | 'signed-in', fallback: number, min: number): number => {
    const value = Number(values[name] ?? fallback)
    if (Number.isInteger(value) && value >= min && value <= maxRows) return value
    throw new TypeError(`--${name} must be a whole number from ${min} to ${maxRows}, not "${values[name]}"`)
  }
  const users = wholeNumber('users', 0, 1)
  return {
    size: {
      users,
      teams: wholeNumber('teams', 0, 0),
      projects: wholeNumber('projects', 0, 0),
      generations: wholeNumber('generations', 0, 0),
    },
    seed: wholeNumber('seed', 1, 0),
    tokens: values.tokens,
    signedIn: Math.min(users, wholeNumber('signed-in', 1_000, 1)),
    intoExisting: values['into-existing'] ?? false,
  }
}

const seedLargeWorld = async (order: Order, config: Config): Promise<void> => {
  const startedMs = performance.now()
  const log = createLog(config.logLevel)
  const { connection, secret, stop } = await openDatabase(config, log, report)
  try {
    const { route } = await prepareDatabase(connection, config, log, report)
    const sql = connectOnce(connection, route)
    try {
      if (!order.intoExisting && (await hasAccounts(sql))) {
        throw new SeedFailed('The database already has accounts. Give --into-existing to add a world to it.')
      }
      // With a salt of the seed: the same seed gives the same rows.
      const salt = sha256(new TextEncoder().encode(`velro seed ${order.seed}`)).subarray(0, 16)
      const passwordHash = await hash(seedPassword, { ...argon2Options, salt })
      const { users, tables } = createLargeWorld(order.size, order.seed, passwordHash)
      const elapsed = () => `${((performance.now() - startedMs) / 1_000).toFixed(1)} s`
      await writeWorld(sql, tables, (what, rows, total) =>
        report(`${elapsed().padStart(7)}  ${what}: ${figure(rows)}${rows === total ? '' : ` of ${figure(total)}`}`),
      )
      if (order.tokens !== undefined) {
        const policy = { issuer: config.issuer, audience: config.audience, ttlMs: config.accessTokenTtlMs }
        const keys = { secret, previousSecret: config.previousSecret, policy, maxTokenTtlMs: maxAccessTokenTtlMs }
        const people = await signIn(sql, keys, users.slice(0, order.signedIn))
        await writeFile(order.tokens, people.map((each) => `${JSON.stringify(each)}\n`).join(''), { mode: 0o600 })
        report(`${elapsed().padStart(7)}  signed in: ${figure(people.length)}, for ${policy.ttlMs / 1_000} s`)
      }
      console.log(`The world has ${sizes.map((name) => `${figure(order.size[name])} ${name}`).join(', ')}.
Its people are ${seedEmail(order.seed, 0)} to ${seedEmail(order.seed, order.size.users - 1)}, with the password "${seedPassword}".`)
    } finally {
      await sql.end({ timeout: 1 })
    }
  } finally {
    await stop()
  }
}

const run = async (): Promise<void> => {
  let config: Config | undefined
  try {
    const order = parseOrder(process.argv.slice(2))
    if (order === undefined) return console.log(await seedSmallWorld())
    config = parseConfig(process.env)
    for (const note of config.notes) report(`${note}.`)
    await seedLargeWorld(order, config)
  } catch (error) {
    const isMisused = error instanceof TypeError && (/^--/.test(error.message) || 'code' in error)
    if (isMisused) report(`${error.message}\n\n${usage}`)
    else report(error instanceof SeedFailed ? error.message : (describeStartFailure(error, config) ?? ''))
    process.exit(1)
  }
}

void run()
