import { spawn } from 'node:child_process'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { reapFolder, reapProcess } from '../harness/reaper.ts'

/** The program, where it is installed: Debian's package chromium-headless-shell, or Chromium itself. */
export const chromium = ['chromium-headless-shell', 'chromium']
  .map((name) => Bun.which(name))
  .find((path) => path !== null)

type Reply = { id?: number; result?: unknown; error?: { message: string } }

/** A page in a real Chromium, driven by the DevTools protocol. */
export const openPage = async (url: string) => {
  const folder = await mkdtemp(join(tmpdir(), 'velro-chromium-'))
  reapFolder(folder)
  const flags = [
    '--remote-debugging-port=0',
    '--no-sandbox',
    '--headless',
    '--disable-features=LocalNetworkAccessChecks',
    `--user-data-dir=${folder}`,
    'about:blank',
  ]
  const process = spawn(chromium ?? '', flags, { stdio: ['ignore', 'ignore', 'pipe'] })
  reapProcess(process.pid ?? 0)
  const address = await new Promise<string>((resolve, reject) => {
    let text = ''
    process.stderr.on('data', (bytes) => {
      text += bytes
      const found = /DevTools listening on (ws:\S+)/.exec(text)?.[1]
      if (found !== undefined) resolve(found)
    })
    process.once('exit', () => reject(new Error(`Chromium ended: ${text}`)))
  })
  const socket = new WebSocket(address)
  await new Promise((resolve) => socket.addEventListener('open', resolve, { once: true }))
  const waiting = new Map<number, (reply: Reply) => void>()
  socket.addEventListener('message', ({ data }) => {
    const reply = JSON.parse(String(data)) as Reply
    if (reply.id !== undefined) waiting.get(reply.id)?.(reply)
  })
  let sent = 0
  let sessionId: string | undefined
  // biome-ignore lint/suspicious/noExplicitAny: results of every shape
  const send = async (method: string, params: object = {}): Promise<any> => {
    sent += 1
    const id = sent
    const replied = new Promise<Reply>((resolve) => waiting.set(id, resolve))
    socket.send(JSON.stringify({ id, method, params, ...(sessionId !== undefined && { sessionId }) }))
    const { result, error } = await replied
    if (error !== undefined) throw new Error(`${method}: ${error.message}`)
    return result
  }
  const { targetId } = await send('Target.createTarget', { url })
  sessionId = (await send('Target.attachToTarget', { targetId, flatten: true })).sessionId

  for (;;) {
    const { result } = await send('Runtime.evaluate', {
      expression: 'location.href + document.readyState',
      returnByValue: true,
    })
    if (String(result.value).startsWith(url) && String(result.value).endsWith('complete')) break
    await Bun.sleep(20)
  }

  return {
    send,
    /** Runs a script in the page and returns what it resolves to. */
    run: async <T>(script: string): Promise<T> => {
      const options = { expression: script, awaitPromise: true, returnByValue: true, userGesture: true }
      const { result, exceptionDetails } = await send('Runtime.evaluate', options)
      if (exceptionDetails !== undefined) throw new Error(JSON.stringify(exceptionDetails))
      return result.value as T
    },
    /** Ends the browser, which a signal to the script that has started it would not. */
    close: async () => {
      sessionId = undefined
      await send('Browser.close')
      socket.close()
    },
  }
}

export type Page = Awaited<ReturnType<typeof openPage>>
