import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import type { Page } from 'playwright-core'
import { startApp, type TestApp } from '../harness.ts'
import { type Browser, findChromium, startChromium } from './chromium.ts'
import { createCertificate, servePage, startTlsProxy } from './origins.ts'
import { emptyPage } from './page.ts'

const program = findChromium()

describe.skipIf(program === null)('a page in Chromium on another origin, with its session in cookies', () => {
  let app: TestApp
  let browser: Browser
  let page: Page
  let calls: string
  const closing: (() => unknown)[] = []

  beforeAll(async () => {
    const certificate = await createCertificate()
    const proxy = await startTlsProxy(certificate)
    const pages = servePage(certificate, emptyPage)
    const base = `https://api.velro.test:${proxy.port}`
    const origin = `https://app.velro.test:${pages.port}`
    closing.push(proxy.close, pages.close)
    app = await startApp({
      config: { jobConcurrency: 1, renderWorkers: 1, dbConnections: 40, publicUrl: base, corsOrigins: [origin] },
    })
    proxy.leadTo(Number(new URL(app.baseUrl).port))
    calls = `
      const api = '${base}/api/v1'
      const call = async (method, path, body) => {
        const headers = body ? { 'content-type': 'application/json' } : {}
        const init = { method, credentials: 'include', headers, body: body && JSON.stringify(body) }
        const response = await fetch(api + path, init)
        const text = await response.text()
        return { status: response.status, body: text ? JSON.parse(text) : null }
      }
      const account = { email: 'ada@example.com', password: 'seven green bottles hanging', cookies: true }
    `
    browser = await startChromium(program ?? '', certificate.publicKeyHash)
    page = await browser.open(`${origin}/`)
    await run(`await call('POST', '/auth/register', account)`)
  }, 60_000)
  afterAll(async () => {
    await browser?.close()
    await app?.close()
    for (const close of closing) await close()
  })
  const run = (body: string): Promise<unknown> => page.evaluate(`(async () => { ${calls} ${body} })()`)

  test('follows a generation by EventSource with a ticket alone', async () => {
    const status = await run(`
      const input = { model: 'local/procedural', prompt: 'a lighthouse', parameters: { width: 64, height: 64 } }
      const { id } = (await call('POST', '/generations', input)).body
      const { url } = (await call('POST', '/generations/' + id + '/stream-tickets')).body
      return await new Promise((resolve, reject) => {
        const source = new EventSource(url)
        source.addEventListener('done', ({ data }) => { source.close(); resolve(JSON.parse(data).status) })
        source.onerror = () => source.readyState === 2 && reject(new Error('closed'))
      })`)
    expect(status).toBe('completed')
  }, 30_000)

  test('uploads the picture of a form, and reads where it is', async () => {
    const uploaded = await run(`
      const canvas = new OffscreenCanvas(40, 30)
      canvas.getContext('2d').fillRect(0, 0, 40, 30)
      const form = new FormData()
      form.append('file', await canvas.convertToBlob({ type: 'image/png' }), 'own.png')
      const response = await fetch(api + '/media', { method: 'POST', credentials: 'include', body: form })
      const { id, width } = await response.json()
      return [response.status, width, response.headers.get('location') === '/api/v1/media/' + id]`)
    expect(uploaded).toEqual([201, 40, true])
  }, 30_000)

  test('changes the password, refreshes and signs out, and no answer has a token', async () => {
    const members = await run(`
      const { password } = account
      const change = { current_password: password, new_password: 'eight brown bottles standing' }
      const changed = await call('POST', '/auth/password', change)
      const refreshed = await call('POST', '/auth/refresh', { cookies: true })
      const left = await call('POST', '/auth/logout')
      return [changed.status, Object.keys(changed.body), refreshed.status, Object.keys(refreshed.body), left.status, (await call('GET', '/auth/me')).body.credential]`)
    expect(members).toEqual([200, ['expires_in', 'user'], 200, ['expires_in', 'user'], 204, 'missing'])
  }, 30_000)
})
