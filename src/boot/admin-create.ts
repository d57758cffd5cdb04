import process from 'node:process'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { type Config, parseConfig } from '../config.ts'
import { Fault, toProblem } from '../fault.ts'
import { createOperatorAccount } from '../identity/users/operator-account.ts'
import { createLog } from '../platform/log.ts'
import { connectOnce } from '../platform/postgres.ts'
import { openDatabase } from './open-database.ts'
import { prepareDatabase } from './prepare-database.ts'
import { describeStartFailure } from './start-failure.ts'

const usage = `bun run admin:create ADDRESS [--name NAME]
  Creates an operator with this e-mail address in the database of the configuration, or makes the active account that has the
  address an operator. The password of a new account is read from the terminal, or from the first line of standard input where
  that is not a terminal. It is never an argument, which other users of the machine could read.`

const report = (line: string): void => console.error(line)

/** The arguments or the input are wrong. */
class Misused extends Error {
  override readonly name = 'Misused'
}

/** Reads a line without showing it. */
const readHidden = (question: string): Promise<string> => {
  const { stdin, stderr } = process
  stderr.write(question)
  stdin.setRawMode(true)
  stdin.resume()
  return new Promise((resolve, reject) => {
    let line = ''
    const finish = (end: () => void) => {
      stdin.setRawMode(false)
      stdin.pause()
      stdin.off('data', read)
      stderr.write('\n')
      end()
    }
    const read = (bytes: Uint8Array) => {
      for (const character of new TextDecoder().decode(bytes)) {
        if (character === '\r' || character === '\n') return finish(() => resolve(line))
        if (character === '\u0003') return finish(() => reject(new Misused('Nothing was changed')))
        line = character === '\u007f' || character === '\b' ? line.slice(0, -1) : line + character
      }
    }
    stdin.on('data', read)
  })
}

const readFirstLine = async (): Promise<string> => {
  for await (const line of createInterface({ input: process.stdin })) return line
  return ''
}

const readPassword = async (): Promise<string> => {
  if (!process.stdin.isTTY) return readFirstLine()
  const password = await readHidden('Password of the new operator: ')
  if ((await readHidden('Once more: ')) !== password) throw new Misused('The two passwords differ')
  return password
}

const run = async (email: string, name: string | undefined, config: Config): Promise<string> => {
  const log = createLog(config.logLevel)
  const { connection, stop } = await openDatabase(config, log, report)
  try {
    const { route } = await prepareDatabase(connection, config, log, report)
    const sql = connectOnce(connection, route)
    try {
      const { outcome, userId } = await createOperatorAccount({ sql, config, log, email, name, readPassword })
      log.info({ event: 'user.promoted', user_id: userId, outcome }, 'an operator was created from the command line')
      return {
        created: `Created the operator ${userId}. Sign in with the address and the password.`,
        promoted: `The account ${userId} has this address and is an operator now. Its password is unchanged.`,
        is_admin: `The account ${userId} has this address and is an operator already.`,
      }[outcome]
    } finally {
      await sql.end({ timeout: 1 })
    }
  } finally {
    await stop()
  }
}

/** The texts of a refused address or password, as the API words them. */
const wordsOf = (fault: Fault): string => {
  const { detail, errors = [] } = toProblem(fault, '', '')
  return [detail, ...errors.map((each) => `${each.pointer.slice(1)} ${each.detail}`)].join(': ')
}

const main = async (): Promise<void> => {
  let config: Config | undefined
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { name: { type: 'string' }, help: { type: 'boolean' } },
    })
    if (values.help) return console.log(usage)
    const [email, ...others] = positionals
    if (email === undefined || others.length > 0) throw new Misused('One e-mail address must be given')
    config = parseConfig(process.env)
    for (const note of config.notes) report(`${note}.`)
    console.log(await run(email, values.name, config))
  } catch (error) {
    const isMisused = error instanceof Misused || (error instanceof TypeError && 'code' in error)
    if (isMisused) report(`${error.message}\n\n${usage}`)
    else if (error instanceof Fault && error.status < 500) report(`${wordsOf(error)}.`)
    else report(describeStartFailure(error, config) ?? '')
    process.exitCode = 1
  }
}

void main()
