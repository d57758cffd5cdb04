import { describe, expect, test } from 'bun:test'
import { readUsers } from '../../src/identity/import/sources.ts'
import { FileRefused, readTables } from '../../src/identity/import/tables.ts'

const now = new Date('2026-11-30T00:00:00Z')

describe('a file', () => {
  test('of pg_dump gives the tables of its COPY statements, apart by schema, with escapes and nulls', () => {
    const dump = [
      '-- PostgreSQL database dump',
      'SET statement_timeout = 0;',
      'COPY "auth"."users" ("id", "email", "encrypted_password", "raw_user_meta_data") FROM stdin;',
      '1\tada@example.com\t$2a$10$x\t{"full_name": "Ada\\\\tB", "q": "\\\\""}',
      '2\t\\N\t\\N\tline\\nbreak\\ttab\\\\backslash\\x41\\101',
      '3\ttoo few',
      '\\.',
      'COPY public.users (id, name) FROM stdin;',
      '9\tanother table',
      '\\.',
      '',
    ].join('\n')
    const tables = readTables('/tmp/dump.SQL', dump)
    expect([...tables.keys()]).toEqual(['auth.users', 'public.users'])
    expect(tables.get('auth.users')).toEqual({
      rows: [
        {
          id: '1',
          email: 'ada@example.com',
          encrypted_password: '$2a$10$x',
          raw_user_meta_data: '{"full_name": "Ada\\tB", "q": "\\""}',
        },
        { id: '2', email: null, encrypted_password: null, raw_user_meta_data: 'line\nbreak\ttab\\backslashAA' },
      ],
      refused: [{ place: 'line 6', reason: 'must have 4 columns' }],
    })
  })

  test('of JSON is an array named for the file, or an object of arrays', () => {
    expect(readTables('out/user.json', '[{"id":1},7]').get('user')).toEqual({
      rows: [{ id: 1 }],
      refused: [{ place: 'item 2 of user', reason: 'must be an object' }],
    })
    expect([...readTables('all.json', '{"user":[],"account":[],"note":"x"}').keys()]).toEqual(['user', 'account'])
  })

  test('of JSON lines gives a row for each line, and names those that are not', () => {
    expect(readTables('users.jsonl', '{"id":1}\n\n{"id":\n[1]\n').get('users')).toEqual({
      rows: [{ id: 1 }],
      refused: [
        { place: 'line 3', reason: 'must be valid JSON' },
        { place: 'line 4', reason: 'must be an object' },
      ],
    })
  })

  test('of CSV may quote line breaks and begin with a byte order mark', () => {
    const table = readTables('users.csv', '\uFEFFid,name\n1,"Ada\nByron"\n2,Bo\n3\n').get('users')
    expect(table?.rows).toEqual([
      { id: '1', name: 'Ada\nByron' },
      { id: '2', name: 'Bo' },
    ])
    expect(table?.refused).toHaveLength(1)
  })

  test('is refused with another ending, without COPY statements, and with broken JSON', () => {
    expect(() => readTables('users.xlsx', '')).toThrow(FileRefused)
    expect(() => readTables('dump.sql', 'INSERT INTO users VALUES (1);')).toThrow(/use-copy/)
    expect(() => readTables('users.json', '[{')).toThrow('must be valid JSON')
    expect(() => readTables('users.json', '7')).toThrow(FileRefused)
  })
})

describe('the users', () => {
  test('of Supabase have the hash, the name and the state of auth.users', () => {
    const rows = [
      {
        id: 'a',
        email: 'Ada@Example.com',
        encrypted_password: '$2a$10$x',
        email_confirmed_at: '2024-05-01 10:00:00.5+00',
        created_at: '2024-04-30T10:00:00Z',
        raw_user_meta_data: { full_name: 'Ada Byron' },
      },
      { id: 'b', email: 'bo@example.com', encrypted_password: '', banned_until: '2027-01-01 00:00:00+00' },
      { id: 'c', email: 'cy@example.com', banned_until: '2025-01-01 00:00:00+00', raw_user_meta_data: '{"name":"Cy"}' },
      { id: 'd', email: null, is_anonymous: true },
      { id: 'e', email: 'eve@example.com', deleted_at: '2024-01-01 00:00:00+00' },
    ]
    const users = readUsers('supabase', readTables('users.json', JSON.stringify(rows)), now)
    expect(users[0]).toEqual({
      place: 'user 1',
      sourceId: 'a',
      email: 'Ada@Example.com',
      displayName: 'Ada Byron',
      passwordHash: '$2a$10$x',
      emailVerifiedAt: new Date('2024-05-01T10:00:00.500Z'),
      createdAt: new Date('2024-04-30T10:00:00Z'),
      isSuspended: false,
    })
    expect(users.map(({ isSuspended }) => isSuspended)).toEqual([false, true, false, false, false])
    expect(users.map(({ passwordHash }) => passwordHash)).toEqual(['$2a$10$x', null, null, null, null])
    expect(users[2]?.displayName).toBe('Cy')
    expect(users.map(({ refused }) => refused)).toEqual([
      undefined,
      undefined,
      undefined,
      'is an anonymous user',
      'is deleted there',
    ])
  })

  test('of Better Auth have the password of their credential account, in either spelling of the columns', () => {
    const tables = readTables(
      'all.json',
      JSON.stringify({
        user: [
          { id: 'u1', email: 'ada@example.com', name: 'Ada', emailVerified: true, createdAt: 1_714_557_600_000 },
          { id: 'u2', email: 'bo@example.com', name: 'Bo', email_verified: 0, created_at: 1_714_557_600, banned: 1 },
        ],
        account: [
          { userId: 'u1', providerId: 'google', password: null },
          { userId: 'u1', providerId: 'credential', password: 'aa:bb' },
          { user_id: 'u2', provider_id: 'google', password: null },
        ],
      }),
    )
    const [ada, bo] = readUsers('better-auth', tables, now)
    const createdAt = new Date(1_714_557_600_000)
    expect(ada).toMatchObject({ passwordHash: 'aa:bb', createdAt, emailVerifiedAt: createdAt, isSuspended: false })
    expect(bo).toMatchObject({ passwordHash: null, createdAt, emailVerifiedAt: null, isSuspended: true })
  })

  test('of PocketBase have the hash of either version', () => {
    const rows = [
      {
        id: 'r1',
        email: 'ada@example.com',
        password: '$2a$10$new',
        verified: 1,
        created: '2024-05-01 10:00:00.000Z',
        name: 'Ada',
      },
      { id: 'r2', email: 'bo@example.com', passwordHash: '$2a$13$old', verified: 'false', created: '', username: 'bo' },
    ]
    const [ada, bo] = readUsers('pocketbase', readTables('users.json', JSON.stringify(rows)), now)
    const createdAt = new Date('2024-05-01T10:00:00Z')
    expect(ada).toMatchObject({ passwordHash: '$2a$10$new', displayName: 'Ada', createdAt, emailVerifiedAt: createdAt })
    expect(bo).toMatchObject({ passwordHash: '$2a$13$old', displayName: 'bo', createdAt: null, emailVerifiedAt: null })
  })

  test('are not found in a file of other tables, which the error names', () => {
    expect(() => readUsers('better-auth', readTables('user.json', '[]'), now)).toThrow(
      'must hold the table account or accounts, but holds user',
    )
  })
})
