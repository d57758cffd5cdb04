import { afterAll, beforeAll, describe, expect, test } from 'bun:test'
import { readFile } from 'node:fs/promises'
import { startApp, type TestApp } from '../harness.ts'
import { type Document, nameOf, type Route, resolve, routesOf, type Schema } from '../http/black-box/document.ts'

let app: TestApp
let document: Document
let chapter: string

beforeAll(async () => {
  app = await startApp()
  document = (await (await fetch(`${app.baseUrl}/docs/json`)).json()) as Document
  chapter = await readFile(new URL('../../src/identity/README.md', import.meta.url), 'utf8')
})
afterAll(() => app.close())

/** The names of all members of a schema, at any depth. */
const membersOf = (schema: Schema, seen = new Set<Schema>()): string[] => {
  const found = resolve(document, schema)
  if (seen.has(found)) return []
  seen.add(found)
  const { properties = {}, items, allOf = [], anyOf = [] } = found
  const parts = [...Object.values(properties), ...(items === undefined ? [] : [items]), ...allOf, ...anyOf]
  return [...Object.keys(properties), ...parts.flatMap((part) => membersOf(part, seen))]
}
const schemasOf = (content: Record<string, { schema: Schema }> = {}) =>
  Object.values(content).map(({ schema }) => schema)
const inputsOf = ({ operation: { parameters = [], requestBody } }: Route): string[] => [
  ...parameters.map(({ name }) => name),
  ...schemasOf(requestBody?.content).flatMap((schema) => membersOf(schema)),
]
const outputsOf = ({ operation: { responses } }: Route): string[] =>
  Object.values(responses).flatMap(({ content }) => schemasOf(content).flatMap((schema) => membersOf(schema)))

/** `ROUTE: MEMBER` for each member of a request or a response whose name matches. */
const membersNamed = (expression: RegExp): string[] =>
  routesOf(document).flatMap((route) =>
    [...inputsOf(route), ...outputsOf(route)]
      .filter((name) => expression.test(name))
      .map((name) => `${nameOf(route)}: ${name}`),
  )

describe('no route takes or shows', () => {
  test('a telephone number, so no code is sent by SMS or voice', () => {
    expect(membersNamed(/phone|sms|msisdn|mobile|voice/i)).toEqual([])
  })

  test('a hint for a password, or a secret question', () => {
    expect(membersNamed(/hint|question|secret_answer|maiden/i)).toEqual([])
  })

  test('an assertion of SAML', () => {
    expect(membersNamed(/saml|relay_?state/i)).toEqual([])
    expect(
      routesOf(document)
        .map(nameOf)
        .filter((name) => /saml/i.test(name)),
    ).toEqual([])
  })

  test('a measurement of a body: a biometric stays in the authenticator', () => {
    expect(membersNamed(/biometric|fingerprint|face|iris/i)).toEqual([])
  })
})

/** The rows of the table of a section, as lists of cells without the head. */
const tableOf = (heading: string): string[][] => {
  const section = chapter.split(/^## /m).find((part) => part.startsWith(`${heading}\n`)) ?? ''
  const rows = [...section.matchAll(/^\|(.*)\|$/gm)].map(([, row = '']) => row.split('|').map((cell) => cell.trim()))
  return rows.slice(2)
}

describe('the table of the ways to authenticate', () => {
  test('names every route that answers with tokens, and no other', () => {
    const signIn = routesOf(document).filter((route) => outputsOf(route).includes('access_token'))
    const named = tableOf('Ways to authenticate').flatMap(([, routes = '']) =>
      [...routes.matchAll(/`([A-Z]+) ([^`]+)`/g)].map(([, method, path]) => `${method} /api/v1/auth${path}`),
    )
    expect(signIn.length).toBeGreaterThan(3)
    expect([...new Set(named)].toSorted()).toEqual(signIn.map(nameOf).toSorted())
  })

  test('has no route that a browser could open without an action of the person: none is a GET', () => {
    const signIn = routesOf(document).filter((route) => outputsOf(route).includes('access_token'))
    expect(signIn.filter(({ method }) => method === 'GET').map(nameOf)).toEqual([])
  })
})
