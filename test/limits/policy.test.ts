import { describe, expect, test } from 'bun:test'
import { readFile } from 'node:fs/promises'
import { describeStartFailure } from '../../src/boot/start-failure.ts'
import { ConfigRefused, parseConfig } from '../../src/config.ts'
import { plans } from '../../src/limits/plans.ts'
import { budgetOf, defaultPolicy, quotaOf } from '../../src/limits/policy.ts'

const readme = await readFile(new URL('../../src/limits/README.md', import.meta.url), 'utf8')

/** The figures of a table of the README, by the name in its first column. A budget of all plans has one figure. */
const figuresOf = (firstColumn: string): Record<string, number[]> => {
  const table = readme.slice(readme.indexOf(`\n| ${firstColumn}`) + 1).split('\n\n')[0] ?? ''
  const rows = table.split('\n').slice(2)
  return Object.fromEntries(
    rows.map((row) => {
      const [name = '', ...cells] = row
        .split('|')
        .slice(1)
        .map((cell) => cell.trim())
      return [name, cells.filter((cell) => /^[\d,]+$/.test(cell)).map((cell) => Number(cell.replaceAll(',', '')))]
    }),
  )
}

const figures = (table: object) =>
  Object.fromEntries(
    Object.entries(table).map(([name, row]) => [
      name,
      typeof row === 'number' ? [row] : plans.map((plan) => row[plan]),
    ]),
  )

describe('the policy table', () => {
  test('is the one in the README of the limits', () => {
    expect(figuresOf('budget')).toEqual(figures(defaultPolicy.budgets))
    expect(figuresOf('quota')).toEqual(figures(defaultPolicy.quotas))
    expect(figuresOf('event streams')).toEqual(figures(defaultPolicy.streams))
  })

  test('is that of the configuration, where no variable is set', () => {
    expect(parseConfig({}).policy).toEqual(defaultPolicy)
    expect(parseConfig({}).limits).toBe('on')
  })

  test('has a variable for every figure', () => {
    const { policy } = parseConfig({
      LIMIT_API_FREE: '7',
      LIMIT_AUTH_ACCOUNT_AND_ADDRESS: '8',
      QUOTA_TEAM_MEMBERS_ENTERPRISE: '9',
      LIMIT_STREAMS_ADDRESS: '10',
    })
    expect(policy.budgets.api).toEqual({ ...defaultPolicy.budgets.api, free: 7 })
    expect(policy.budgets.auth_account_and_address).toBe(8)
    expect(policy.streams).toEqual({ ...defaultPolicy.streams, address: 10 })
    expect(policy.quotas.team_members).toEqual({ ...defaultPolicy.quotas.team_members, enterprise: 9 })
  })

  test('is refused where a figure is not a whole number of at least 1', () => {
    for (const value of ['0', '-1', '1.5', 'many']) {
      expect(() => parseConfig({ LIMIT_MEDIA_PRO: value, QUOTA_TEAMS_FREE: value })).toThrow(ConfigRefused)
    }
  })

  const refusalOf = (env: Record<string, string>): string | undefined => {
    try {
      parseConfig(env)
      return undefined
    } catch (error) {
      return describeStartFailure(error, undefined)
    }
  }

  test('is refused in one line where a variable is misspelt, with the nearest right name', () => {
    const cases: [given: string, nearest: string][] = [
      ['LIMIT_APIS_FREE', 'LIMIT_API_FREE'],
      ['LIMIT_API', 'LIMIT_API_PRO'],
      ['LIMIT_API_BUSINESS', 'LIMIT_API_FREE'],
      ['LIMIT_GENERATIONS_PRO', 'LIMIT_GENERATION_PRO'],
      ['LIMIT_ANONYMOUS_FREE', 'LIMIT_ANONYMOUS'],
      ['LIMIT_ANONYMUOS', 'LIMIT_ANONYMOUS'],
      ['LIMITS_MEDIA_FREE', 'LIMIT_MEDIA_FREE'],
      ['LIMT_MEDIA_FREE', 'LIMIT_MEDIA_FREE'],
      ['limit_media_free', 'LIMIT_MEDIA_FREE'],
      ['LIMIT_PROJECTS_FREE', 'QUOTA_PROJECTS_FREE'],
      ['QUOTA_API_ENTERPRISE', 'LIMIT_API_ENTERPRISE'],
      ['QUOTA_PROJECT_PRO', 'QUOTA_PROJECTS_PRO'],
      ['QUOTA_STORAGE_ENTERPRISE', 'QUOTA_TEAMS_ENTERPRISE'],
    ]
    for (const [given, nearest] of cases)
      expect([given, refusalOf({ [given]: '7' })]).toEqual([
        given,
        `Invalid configuration: ${given} is not a setting; set ${nearest} instead.`,
      ])
  })

  test('ignores variables of a platform that only begin alike, and says so at the start', () => {
    const foreign = ['LIMIT_CPU', 'LIMIT_MEMORY', 'LIMIT_REQUEST_BODY', 'QUOTA_ROOT']
    expect(parseConfig(Object.fromEntries(foreign.map((name) => [name, '7']))).notes).toEqual(
      foreign.map((name) => `${name} is not a setting of Velro, and has no effect`),
    )
  })

  test('ignores the variables that Kubernetes sets for a service of a similar name, and an empty variable', () => {
    const config = parseConfig({
      LIMIT_API_SERVICE_HOST: '10.0.0.1',
      LIMIT_API_SERVICE_PORT: '8080',
      LIMIT_API_SERVICE_PORT_HTTP: '8080',
      LIMIT_API_PORT: 'tcp://10.0.0.1:8080',
      LIMIT_API_PORT_8080_TCP_ADDR: '10.0.0.1',
      LIMIT_APIS_FREE: ' ',
    })
    expect(config.notes).toEqual([])
    expect(config.policy).toEqual(defaultPolicy)
  })

  test('gives way to the figures of an account', () => {
    const own = { api: 1, projects: 2 }
    expect([budgetOf(defaultPolicy, 'api', 'free', own), budgetOf(defaultPolicy, 'media', 'free', own)]).toEqual([
      1, 60,
    ])
    expect([quotaOf(defaultPolicy, 'projects', 'pro', own), quotaOf(defaultPolicy, 'teams', 'pro', null)]).toEqual([
      2, 100,
    ])
  })
})
