import { describe, expect, test } from 'bun:test'
import { readFileSync } from 'node:fs'
import { join, posix } from 'node:path'
import { fileURLToPath } from 'node:url'

/** A source file by its path from src. */
type Source = { readonly path: string; readonly text: string }
type Import = {
  readonly from: string
  readonly to: string
  readonly typesOnly: boolean
  /** Runs the other file in a worker thread: `new URL('./worker.ts', import.meta.url)`. */
  readonly inWorker: boolean
}
/** Returns a line for each violation. */
type Rule = (sources: readonly Source[]) => string[]

/** Imports point down. A path has the floor of its longest prefix here; a folder without one is a feature. */
const floors: Readonly<Record<string, number>> = {
  'kit/': 0,
  'access/policy/': 1,
  'media/formats/': 1,
  'media/images/': 2.5,
  // Generations are listed with their media.
  'media/model.ts': 4.5,
  'providers/local/': 1,
  'providers/local/provider.ts': 4.5,
  'fault.ts': 1,
  'limits/plans.ts': 0.5,
  'limits/policy.ts': 0.9,
  'limits/misspelt-variables.ts': 0.9,
  'identity/identity-providers/settings.ts': 0.9,
  'incidents/report.ts': 0.9,
  'config.ts': 1.5,
  'platform/': 2,
  'platform/connection-url.ts': 0.5,
  'platform/cpu-quota.ts': 0.5,
  'mail/settings.ts': 1,
  'mail/texts.ts': 0.9,
  'http/': 3,
  'limits/': 3.5,
  'limits/routes.ts': 5,
  'http/docs-routes.ts': 7,
  'http/health-routes.ts': 7,
  'access/': 4,
  'security-context/': 4.1,
  'audit/': 3.4,
  'audit/routes.ts': 5,
  'idempotency/': 4,
  'outbound/': 4.2,
  'mail/': 4.3,
  'siem/': 4.3,
  'siem/settings.ts': 1,
  'models/': 4,
  'providers/': 4.5,
  'services.ts': 6,
  'app.ts': 8,
  'boot/prepare-database.ts': 5.5,
  'boot/compose/': 5.7,
  'boot/': 9,
  'main.ts': 10,
}
const feature = 5
/** Limits know nothing of access, not even its pure files, which lie below. */
const knowsNothingOf = (from: string, to: string): boolean =>
  from.startsWith('limits/') && from !== 'limits/routes.ts' && to.startsWith('access/')
/** Features whose types other features may import. */
const lenders = ['identity/', 'models/', 'providers/']

/** May contain SQL, besides the stores of each folder and platform/. */
const mayContainSql = ['access/invalidation/committed-change.ts']
/** May import Elysia, besides the routes. */
const mayImportElysia = ['access/guard/guard.ts', 'app.ts', 'http/elysia-adapter.ts', 'http/schema-types.ts']

const roomOf = (path: string): string => (path.includes('/') ? path.slice(0, path.indexOf('/') + 1) : path)
const floorOf = (path: string): number | undefined => {
  const prefixes = Object.keys(floors).filter(
    (prefix) => path === prefix || (prefix.endsWith('/') && path.startsWith(prefix)),
  )
  const longest = prefixes.toSorted((one, other) => other.length - one.length)[0]
  return longest === undefined ? (path.includes('/') ? feature : undefined) : floors[longest]
}

/** The code without its comments. Strings and templates stay. */
const withoutComments = (text: string): string =>
  text.replace(/('(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`)|\/\/[^\n]*|\/\*[\s\S]*?\*\//g, '$1')

const importsOf = ({ path, text }: Source): Import[] => {
  const code = withoutComments(text)
  const found = [
    ...code.matchAll(/^\s*(?:import|export)\s+(type\s)?(?:[^'`;]*?\sfrom\s+)?'([^']+)'/gm),
    ...code.matchAll(/()\bimport\(\s*'([^']+)'/g),
    ...code.matchAll(/()\bnew URL\(\s*'([^']+)'/g),
  ]
  return found.map(([all, type, specifier = '']) => ({
    from: path,
    to: specifier.startsWith('.') ? posix.join(posix.dirname(path), specifier) : specifier,
    typesOnly: Boolean(type),
    inWorker: all.startsWith('new URL'),
  }))
}
const isOurs = ({ to }: Import) => to.endsWith('.ts')

const importsPointDown: Rule = (sources) => {
  const unplaced = sources.filter(({ path }) => floorOf(path) === undefined).map(({ path }) => `${path} has no floor`)
  const upward = sources
    .flatMap(importsOf)
    .filter(isOurs)
    .filter(({ from, to, typesOnly }) => {
      const [above = 0, below = 0] = [floorOf(from), floorOf(to)]
      if (knowsNothingOf(from, to)) return true
      if (roomOf(from) === roomOf(to)) return below > above
      // Other features may import the types of these, not their functions.
      const lent = above === feature && typesOnly && lenders.some((lender) => to.startsWith(lender))
      return below >= above && !lent
    })
  return [...unplaced, ...upward.map(({ from, to }) => `${from} imports ${to}`)]
}

const relativeImportsNameAFile: Rule = (sources) => {
  const paths = new Set(sources.map(({ path }) => path))
  return sources
    .flatMap(importsOf)
    .filter((found) => isOurs(found) && !paths.has(found.to))
    .map(({ from, to }) => `${from} imports ${to}, which does not exist`)
}

const lines =
  (wrong: (code: string) => readonly string[], allowed: (path: string) => boolean): Rule =>
  (sources) =>
    sources
      .filter(({ path }) => !allowed(path))
      .flatMap(({ path, text }) => wrong(withoutComments(text)).map((what) => `${path}: ${what.trim()}`))

const matches = (expression: RegExp) => (code: string) => [...code.matchAll(expression)].map(([all]) => all)

const inPlatform = (path: string) => path.startsWith('platform/')

const onlyPlatformNamesARuntime = lines(matches(/\b(?:Bun|Deno)\b|'(?:bun|deno)(?::[^']*)?'/g), inPlatform)

const verbs = 'select|insert|update|delete|with|create|alter|drop|truncate|lock|listen|notify|refresh|set'
const onlyStoresContainSql = lines(
  matches(new RegExp(`[\\w>)]\`\\s*(?:${verbs})\\b.*|\\.unsafe\\(.*`, 'gi')),
  (path) => /[/-]store\.ts$/.test(path) || inPlatform(path) || mayContainSql.includes(path),
)

const onlyRoutesImportElysia = lines(
  matches(/'(?:elysia|@elysiajs\/[\w-]+)(?:\/[^']*)?'/g),
  (path) => /[/-]routes\.ts$/.test(path) || mayImportElysia.includes(path),
)

const onlyErasableTypes = lines(
  (code) => [
    ...matches(/^\s*(?:export\s+)?(?:declare\s+)?(?:const\s+)?enum\s.*/gm)(code),
    ...matches(/^\s*(?:export\s+)?(?:declare\s+)?(?:namespace|module)\s+\w.*/gm)(code),
    ...matches(/constructor\s*\([^)]*\b(?:public|private|protected|readonly|override)\s+\w+\s*[?:][^)]*\)/g)(code),
    ...matches(/^\s*(?:import|export)\s+\w+\s*=\s*require.*|^\s*export\s*=.*/gm)(code),
  ],
  () => false,
)

/**
 * Imports of types count too: files in a circle can only be read and changed together. A worker may import the types of its
 * owner.
 */
const noImportCircles: Rule = (sources) => {
  const importsByPath = new Map(
    sources.map((source) => [source.path, importsOf(source).filter((found) => isOurs(found) && !found.inWorker)]),
  )
  const circles: string[] = []
  const done = new Set<string>()
  const visit = (path: string, trail: readonly string[]): void => {
    const start = trail.indexOf(path)
    if (start >= 0) circles.push([...trail.slice(start), path].join(' imports '))
    if (start >= 0 || done.has(path)) return
    for (const { to } of importsByPath.get(path) ?? []) visit(to, [...trail, path])
    done.add(path)
  }
  for (const path of importsByPath.keys()) visit(path, [])
  return circles
}

/** Only constants: no `let` outside a function, no empty collection to be filled later. */
const kitHoldsNoState: Rule = (sources) =>
  lines(
    matches(
      /^(?:export )?(?:let|var)\s.*|^(?:export )?const \w+(?::[^=]*)? = (?:new (?:Weak)?(?:Map|Set)\b.*\(\)|\[\]|\{\})$/gm,
    ),
    (path) => !path.startsWith('kit/'),
  )(sources)

const maxAccessEntries = 16
const maxRootFiles = 12
const foldersStaySmall: Rule = (sources) => {
  const entries = new Set(
    sources.filter(({ path }) => path.startsWith('access/')).map(({ path }) => path.split('/')[1]),
  )
  const rootFiles = sources.filter(({ path }) => !path.includes('/'))
  return [
    ...(entries.size > maxAccessEntries ? [`access has ${entries.size} entries, at most ${maxAccessEntries}`] : []),
    ...(rootFiles.length > maxRootFiles ? [`src has ${rootFiles.length} files, at most ${maxRootFiles}`] : []),
  ]
}

const maxFunctionLines = 149
/** A nested function is shorter than the one at the top level that contains it, so those are enough. */
const maxCommentColumns = 132
/** The formatter leaves comments as they are. */
const commentsStayNarrow: Rule = (sources) =>
  sources.flatMap(({ path, text }) =>
    text
      .split('\n')
      .filter((line) => line.length > maxCommentColumns && /^\s*(?:\/\/|\/?\*)/.test(line) && !line.includes('://'))
      .map((line) => `${path}: ${line}`),
  )

const functionsStayShort: Rule = (sources) =>
  sources.flatMap(({ path, text }) => {
    const statements = text.split(/^(?=\w)/m)
    const long = statements
      .filter((statement) =>
        /^(?:export )?(?:const \w+(?:: [^=]+)? = (?:async )?[<(]|(?:async )?function\b)/.test(statement),
      )
      .map((statement) => statement.split('\n/**', 1)[0]?.trimEnd().split('\n') ?? [])
      .filter((found) => found.length > maxFunctionLines)
    return long.map(([first = '', ...rest]) => `${path}: ${rest.length + 1} lines: ${first}`)
  })

const onlyCheckedTypes: Rule = (sources) =>
  sources.flatMap(({ path, text }) => {
    // In comments too: that is where they are written.
    const switchedOff = matches(/@ts-(?:ignore|expect-error|nocheck)/g)(text)
    const code = withoutComments(text).replace(/'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`/g, "''")
    const unchecked = [
      ...matches(/[:<|&,(]\s*any\b(?!\w|\()|\bas any\b|\bas unknown as\b/g)(code),
      ...matches(/[\w)\]]!(?=[.,;)\]\s[])(?!\s*=)/g)(code),
    ]
    return [...switchedOff, ...unchecked].map((found) => `${path}: ${found.trim()}`)
  })

/**
 * A prepared statement that returns all columns of a table fails after a migration adds one; behind a pooler it does so for
 * good. The columns of a subquery in the same statement are fixed, so `*` may stand for those.
 */
const statementsNameTheirColumns: Rule = (sources) =>
  sources.flatMap(({ path, text }) =>
    [
      ...withoutComments(text).matchAll(
        /\b(?:select|returning)\s+\*(?!\s+from\s*(?:\(|\$\{))|\b([a-z_]+)\.\*(?=[\s,`])/g,
      ),
    ]
      .filter(([, alias]) => alias === undefined || !new RegExp(`\\)\\s+(?:as\\s+)?${alias}\\b`).test(text))
      .map(([found]) => `${path}: ${found}`),
  )

const root = fileURLToPath(new URL('../src/', import.meta.url))
const house: Source[] = [...new Bun.Glob('**/*.ts').scanSync(root)]
  .toSorted()
  .map((path) => ({ path, text: readFileSync(join(root, path), 'utf8') }))

/** Each entry of `broken` is a source, or several, in which the rule finds one violation. */
const rules: [guarantee: string, rule: Rule, broken: (Source | Source[])[], intact: Source[]][] = [
  [
    'imports point down: kit, platform, access, features, app, main',
    importsPointDown,
    [
      { path: 'kit/a.ts', text: "import { Fault } from '../fault.ts'" },
      { path: 'platform/a.ts', text: "import type { RequestContext } from '../http/request-context.ts'" },
      { path: 'access/a.ts', text: "import {\n  type A,\n  b,\n} from '../teams/model.ts'" },
      { path: 'teams/a.ts', text: "export * from '../projects/service.ts'" },
      { path: 'teams/b.ts', text: "import { identity } from '../identity/service.ts'" },
      { path: 'teams/c.ts', text: "const later = () => import('../app.ts')" },
      { path: 'teams/d.ts', text: "new Worker(new URL('../projects/worker.ts', import.meta.url))" },
      { path: 'limits/policy.ts', text: "import { plans } from '../access/policy/matrix.ts'" },
      { path: 'limits/quotas.ts', text: "import type { Caller } from '../access/principal.ts'" },
      { path: 'limits/budgets.ts', text: "import { actions } from '../access/policy/matrix.ts'" },
      { path: 'app.ts', text: "import './main.ts'" },
      { path: 'utilities.ts', text: '' },
    ],
    [
      { path: 'kit/a.ts', text: "import { b } from './b.ts'" },
      { path: 'teams/a.ts', text: "import type { User } from '../identity/model.ts'\n// import x from '../app.ts'" },
      {
        path: 'teams/b.ts',
        text: "import { b } from '../access/access.ts'\nimport { randomBytes } from 'node:crypto'",
      },
    ],
  ],
  [
    'no function has 150 lines or more',
    functionsStayShort,
    [
      { path: 'teams/a.ts', text: `export const a = ({\n  b,\n}: B) => {\n${'  c()\n'.repeat(146)}}\n` },
      { path: 'teams/b.ts', text: `const one = 1\nconst a = async <T>(b: T) => {\n${'  c()\n'.repeat(148)}}\n` },
      { path: 'teams/c.ts', text: `function a() {\n${'  c()\n'.repeat(148)}}\n` },
    ],
    [
      { path: 'teams/a.ts', text: `const a = () => {\n${'  c()\n'.repeat(147)}}\n\n/** Long. */\nconst b = 1` },
      { path: 'fault.ts', text: `export const catalogue = {\n${'  a: 1,\n'.repeat(200)}}\n` },
    ],
  ],
  [
    'no line of a comment has more than 132 columns',
    commentsStayNarrow,
    [
      { path: 'teams/a.ts', text: `/** ${'word '.repeat(26)} */\nconst a = 1` },
      { path: 'teams/b.ts', text: `const a = 1\n  // ${'word '.repeat(26)}` },
    ],
    [
      {
        path: 'teams/a.ts',
        text: `/** ${'word '.repeat(24)} */\nconst a = '${'word '.repeat(30)}'\n// https://example.com/${'a'.repeat(120)}`,
      },
    ],
  ],
  [
    'a relative import names a file that exists',
    relativeImportsNameAFile,
    [{ path: 'kit/a.ts', text: "import { b } from './b.ts'" }],
    [{ path: 'kit/a.ts', text: "import { a } from './a.ts'" }],
  ],
  [
    'only platform names a runtime',
    onlyPlatformNamesARuntime,
    [
      { path: 'teams/a.ts', text: 'await Bun.sleep(1)' },
      { path: 'kit/a.ts', text: 'globalThis.Deno' },
      { path: 'app.ts', text: "import { SQL } from 'bun'" },
      { path: 'main.ts', text: "import { Database } from 'bun:sqlite'" },
    ],
    [
      { path: 'platform/serve.ts', text: 'Bun.serve({})' },
      { path: 'kit/a.ts', text: '/** Deno and Bun agree. */ const Bundle = 1' },
    ],
  ],
  [
    'only stores and platform contain SQL',
    onlyStoresContainSql,
    [
      { path: 'teams/service.ts', text: 'await sql<Row[]>`\n  select 1`' },
      { path: 'teams/routes.ts', text: 'await tx`INSERT INTO teams`' },
      { path: 'access/decide.ts', text: 'await sql.unsafe(text)' },
      { path: 'app.ts', text: 'pools(name)`with a as (select 1) select * from a`' },
    ],
    [
      { path: 'teams/store.ts', text: 'await sql`select 1`' },
      { path: 'teams/service.ts', text: 'log(`select a team`); const offset = 1' },
    ],
  ],
  [
    'a statement names the columns of a table',
    statementsNameTheirColumns,
    [
      { path: 'teams/store.ts', text: 'sql`select * from teams`' },
      { path: 'teams/store.ts', text: 'sql`update teams set name = 1 returning *`' },
      { path: 'teams/store.ts', text: 'sql`select t.*, 1 as one from teams t`' },
    ],
    [
      { path: 'teams/store.ts', text: 'sql`select count(*), 2 * 3 from teams`' },
      { path: 'teams/store.ts', text: 'sql`select * from (select id from teams) page`' },
      { path: 'teams/store.ts', text: 'sql`select page.* from (select id from teams) page`' },
    ],
  ],
  [
    'only routes, the guard, the app and its schemas import Elysia',
    onlyRoutesImportElysia,
    [
      { path: 'teams/service.ts', text: "import { status } from 'elysia'" },
      { path: 'teams/model.ts', text: "import type { Context } from 'elysia/types'" },
      { path: 'platform/docs.ts', text: "import { swagger } from '@elysiajs/swagger'" },
    ],
    [
      { path: 'teams/routes.ts', text: "import { Elysia } from 'elysia'" },
      { path: 'teams/service.ts', text: '// an Elysia plugin' },
    ],
  ],
  [
    'types can be erased: no enum, no namespace, no parameter properties',
    onlyErasableTypes,
    [
      { path: 'a.ts', text: 'export enum Role { admin }' },
      { path: 'b.ts', text: 'const enum Role { admin }' },
      { path: 'c.ts', text: 'namespace Roles { export const a = 1 }' },
      { path: 'd.ts', text: 'class A { constructor(private readonly b: string) {} }' },
      { path: 'e.ts', text: "import fs = require('fs')" },
    ],
    [{ path: 'a.ts', text: 'class A { readonly b: string; constructor(b: string) { this.b = b } } // enum' }],
  ],
  [
    'no file imports itself, directly or through others',
    noImportCircles,
    [
      [
        { path: 'teams/a.ts', text: "import { b } from './b.ts'" },
        { path: 'teams/b.ts', text: "import type { A } from './a.ts'" },
      ],
      [
        { path: 'kit/a.ts', text: "export * from './b.ts'" },
        { path: 'kit/b.ts', text: "import './c.ts'" },
        { path: 'kit/c.ts', text: "import { a } from './b.ts'" },
      ],
    ],
    [
      { path: 'teams/a.ts', text: "import { b } from './b.ts'\nimport { c } from './c.ts'" },
      { path: 'teams/b.ts', text: "import { c } from './c.ts'" },
      { path: 'teams/c.ts', text: '' },
    ],
  ],
  [
    'modules of kit hold no state',
    kitHoldsNoState,
    [
      { path: 'kit/a.ts', text: 'let timer: Timer | undefined' },
      { path: 'kit/b.ts', text: 'export const waits = new Set<Wait>()' },
      { path: 'kit/c.ts', text: 'const seen: string[] = []' },
    ],
    [
      { path: 'kit/a.ts', text: "const kinds = new Set(['a'])\nconst create = () => {\n  let count = 0\n}" },
      { path: 'platform/a.ts', text: 'let timer: Timer | undefined' },
    ],
  ],
  [
    'at most 16 entries in access and 12 files in the root of src',
    foldersStaySmall,
    [
      Array.from({ length: 17 }, (_, index) => ({ path: `access/${index}.ts`, text: '' })),
      Array.from({ length: 13 }, (_, index) => ({ path: `${index}.ts`, text: '' })),
    ],
    Array.from({ length: 20 }, (_, index) => ({ path: `access/cache/${index}.ts`, text: '' })),
  ],
  [
    'types are checked: no any, no non-null assertion, no ts-ignore, no cast through unknown',
    onlyCheckedTypes,
    [
      { path: 'a.ts', text: 'const read = (body: any) => body.id' },
      { path: 'b.ts', text: 'const all: Map<string, any> = new Map()' },
      { path: 'c.ts', text: 'const first = rows[0]!.id' },
      { path: 'd.ts', text: '// @ts-ignore\nconst a = 1' },
      { path: 'e.ts', text: 'const context = undefined as unknown as Context' },
    ],
    [
      { path: 'a.ts', text: "const text = 'as any!' // any of these, as unknown as\nif (a !== b && !c) d(t.Any())" },
      { path: 'b.ts', text: 'const race = Promise.any([one, other])' },
    ],
  ],
]

test('the rules see the files of src and their imports', () => {
  expect(house.length).toBeGreaterThan(40)
  expect(house.flatMap(importsOf).length).toBeGreaterThan(150)
})

for (const [guarantee, rule, broken, intact] of rules) {
  describe(guarantee, () => {
    test('holds in src', () => expect(rule(house)).toEqual([]))
    test('is violated by each broken example, and by no intact one', () => {
      for (const sources of broken) expect([sources, rule([sources].flat()).length]).toEqual([sources, 1])
      expect(rule(intact)).toEqual([])
    })
  })
}
