import { expect, test } from 'bun:test'
import { createLoggablePath } from '../../src/http/loggable-path.ts'

const id = '0190a6a0-0000-7000-8000-000000000001'
const loggable = createLoggablePath(() => [{ path: '/api/v1/teams/:team_id' }, { path: '/models/*' }, { path: '/' }])

test('a path in the log has the segments of routes and ids, and a star for all else', () => {
  expect(loggable(`/api/v1/teams/${id}`)).toBe(`/api/v1/teams/${id}`)
  expect(loggable('/')).toBe('/')
  expect(loggable('/models/')).toBe('/models/')
  expect(loggable('/api/v1/teams/vsk_secret')).toBe('/api/v1/teams/*')
  expect(loggable(`/api/v1/teams/${id}x/${id}`)).toBe(`/api/v1/teams/*/${id}`)
  expect(loggable('/api/v1/:team_id/*')).toBe('/api/v1/*/*')
  expect(loggable('hunter2')).toBe('*')
})
