import { createHash } from 'node:crypto'
import { systemClock } from '../kit/clock.ts'
import type { Deadline } from '../kit/deadline.ts'
import { BreakerOpen, type Breakers, createBreakers } from './breaker.ts'
import type { Log } from './log.ts'

/** Characters of the SHA-1 that the service gets. About a million passwords share them. */
const prefixLength = 5
/** A padded answer of Pwned Passwords has about 40 KB. */
const maxAnswerLength = 1_048_576
const timeoutMs = 1_000

/** Reads a body as text, and gives up beyond `maxAnswerLength` bytes. */
const readText = async (body: ReadableStream<Uint8Array> | null): Promise<string> => {
  const decoder = new TextDecoder()
  let text = ''
  let bytes = 0
  for await (const piece of body ?? []) {
    bytes += piece.byteLength
    if (bytes > maxAnswerLength) throw new Error(`The answer is larger than ${maxAnswerLength} bytes`)
    text += decoder.decode(piece, { stream: true })
  }
  return text + decoder.decode()
}

/** Whether an answer lists the suffix. Its lines are `SUFFIX:COUNT`; those with the count 0 are padding. */
const lists = (answer: string, suffix: string): boolean =>
  answer.split('\n').some((line) => {
    const [listed = '', count = ''] = line.trim().split(':')
    return listed.toUpperCase() === suffix && Number(count) > 0
  })

/** A service that knows passwords from breaches, by k-anonymity. */
export type BreachedPasswords = {
  /** Undefined: the service did not answer. */
  has(password: string, deadline: Deadline): Promise<boolean | undefined>
}

/**
 * A client of the range API of Pwned Passwords, or of a copy of it.
 *
 * Guarantee: the service gets the first five characters of the SHA-1 of a password, and nothing else; it is asked for padding,
 * so that its answers have one length. A call takes a second at most. Degrades: where the service cannot be
 * reached or its answer is not usable, `has` resolves to undefined. While its breaker is open it is not asked.
 */
export const createBreachedPasswords = ({
  url,
  log,
  breakers = createBreakers({ clock: systemClock, log }),
}: {
  url: string
  log: Log
  /** Has the policy of the breaker. By default it is the default one. */
  breakers?: Pick<Breakers, 'create'>
}): BreachedPasswords => {
  const breaker = breakers.create({ dependency: 'breached_passwords' })
  const ask = async (prefix: string, signal: AbortSignal): Promise<string> => {
    const response = await fetch(`${url}/${prefix}`, {
      headers: { 'add-padding': 'true', accept: 'text/plain', 'user-agent': 'velro' },
      redirect: 'error',
      signal,
    })
    if (response.status === 200) return readText(response.body)
    await response.body?.cancel()
    throw new Error(`The service answered with the status ${response.status}`)
  }
  return {
    has: async (password, deadline) => {
      const hash = createHash('sha1').update(password).digest('hex').toUpperCase()
      const signal = AbortSignal.timeout(Math.max(1, Math.min(timeoutMs, deadline.remainingMs() / 2)))
      try {
        const answer = await breaker.execute(() => ask(hash.slice(0, prefixLength), signal))
        return lists(answer, hash.slice(prefixLength))
      } catch (error) {
        if (!(error instanceof BreakerOpen))
          log.warn(
            // Errors of the runtimes name the URL, and with it the characters of the hash.
            { event: 'password.breach_unknown', reason: error instanceof Error ? error.name : 'unknown' },
            'the service that knows breached passwords did not answer; a password was accepted without it',
          )
        return undefined
      }
    },
  }
}
