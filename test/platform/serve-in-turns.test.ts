import { describe, expect, test } from 'bun:test'
import { serveInTurns } from '../../src/platform/serve-in-turns.ts'

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))
const requestOf = (number: number) => new Request(`http://localhost/${number}`)

/** A server that notes which requests it was handed, in order. */
const serve = (perTurn: number) => {
  const handed: string[] = []
  const fetch = serveInTurns((request: Request) => {
    handed.push(new URL(request.url).pathname)
    return new Response(request.url)
  }, perTurn)
  return { handed, fetch }
}

describe('requests that are ready at once', () => {
  test('are handed on at once up to the number of a turn, and the others in order, as many in each turn after it', async () => {
    const { handed, fetch } = serve(3)
    const answers = Array.from({ length: 8 }, (_, number) => fetch(requestOf(number)))
    expect(handed).toEqual(['/0', '/1', '/2'])
    expect(answers.map((answer) => answer instanceof Promise)).toEqual([
      ...Array(3).fill(false),
      ...Array(5).fill(true),
    ])
    await turn()
    expect(handed).toEqual(['/0', '/1', '/2', '/3', '/4', '/5'])
    await turn()
    expect(handed).toEqual(['/0', '/1', '/2', '/3', '/4', '/5', '/6', '/7'])
    for (const [number, answer] of answers.entries()) {
      expect((await answer).status).toBe(200)
      expect(await (await answer).text()).toBe(`http://localhost/${number}`)
    }
  })

  test('wait behind those that wait already', async () => {
    const { handed, fetch } = serve(1)
    const answers = [0, 1, 2].map((number) => fetch(requestOf(number)))
    await turn()
    answers.push(fetch(requestOf(3)))
    for (let turns = 0; turns < 3; turns += 1) await turn()
    expect(handed).toEqual(['/0', '/1', '/2', '/3'])
    await Promise.all(answers)
  })

  test('leave turns to timers, where a client sends again as soon as it is answered', async () => {
    const { fetch } = serve(2)
    let sent = 0
    let fired = false
    setTimeout(() => {
      fired = true
    }, 0)
    const client = async () => {
      while (!fired && sent < 100_000) {
        sent += 1
        await fetch(requestOf(sent))
      }
    }
    await Promise.all([client(), client(), client()])
    expect(fired).toBe(true)
  })

  test('fail alone where the application throws', async () => {
    const fetch = serveInTurns(({ url }: Request) => {
      if (url.endsWith('1')) throw new Error('failed')
      return new Response('ok')
    }, 1)
    const answers = await Promise.allSettled([0, 1, 2].map(async (number) => fetch(requestOf(number))))
    expect(answers.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
  })
})
