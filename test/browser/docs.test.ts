import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { startServer, type TestServer } from '../harness.ts'
import { type Browser, findChromium, startChromium } from './chromium.ts'

const chromium = findChromium()

describe.skipIf(chromium === null)('the documentation page', () => {
  let server: TestServer
  let browser: Browser
  beforeAll(async () => {
    server = await startServer({ runtime: 'bun' })
    browser = await startChromium(chromium ?? '', '')
  })
  afterAll(async () => {
    await browser.close()
    await server.stop()
  })

  test('keeps a token that was entered until it is closed, and not in the storage of the browser', async () => {
    const page = await browser.context.newPage()
    await page.goto(`${server.baseUrl}/docs`)
    await page.locator('button.authorize').first().click()
    const field = page.locator('.auth-container input').first()
    await field.fill('a token')
    await page.locator('.auth-container button.authorize').first().click()
    await page.locator('.auth-container').first().getByRole('button', { name: 'Remove authorization' }).waitFor()
    expect(await page.evaluate('[localStorage.length, sessionStorage.length, document.cookie]')).toEqual([0, 0, ''])
  })
})
