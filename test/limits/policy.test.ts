import { describe, expect, test } from 'bun:test'
import { readFile } from 'node:fs/promises'
import { plans } from '../../src/access/policy/matrix.ts'
import { ConfigRefused, parseConfig } from '../../src/config.ts'
import { budgetOf, defaultPolicy, quotaOf } from '../../src/limits/policy.ts'

const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8')

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
  test('is the one in the README', () => {
    expect(figuresOf('budget')).toEqual(figures(defaultPolicy.budgets))
    expect(figuresOf('quota')).toEqual(figures(defaultPolicy.quotas))
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
    })
    expect(policy.budgets.api).toEqual({ ...defaultPolicy.budgets.api, free: 7 })
    expect(policy.budgets.auth_account_and_address).toBe(8)
    expect(policy.quotas.team_members).toEqual({ ...defaultPolicy.quotas.team_members, enterprise: 9 })
  })

  test('is refused where a figure is not a whole number of at least 1', () => {
    for (const value of ['0', '-1', '1.5', 'many']) {
      expect(() => parseConfig({ LIMIT_MEDIA_PRO: value, QUOTA_TEAMS_FREE: value })).toThrow(ConfigRefused)
    }
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
