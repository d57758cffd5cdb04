import { expect, test } from 'bun:test'
import { createHistory } from './history.ts'

test('the possible states are those during the request, and those of changes under way', () => {
  const history = createHistory('a')
  expect(history.possible(0, 1)).toEqual(['a'])
  const change = history.begin('to b', 10, 'b')
  expect(history.possible(0, 9)).toEqual(['a'])
  expect(history.possible(0, 10)).toEqual(['b', 'a'])
  change.answeredMs = 20
  expect(history.possible(11, 12)).toEqual(['b', 'a'])
  expect(history.possible(20, 30)).toEqual(['b', 'a'])
  expect(history.possible(21, 30)).toEqual(['b'])
  const back = history.begin('to a', 40, 'a')
  back.answeredMs = 50
  expect(history.possible(21, 39)).toEqual(['b'])
  expect(history.possible(21, 45)).toEqual(['a', 'b'])
  expect(history.possible(51, 60)).toEqual(['a'])
  expect(history.lastBefore(45)?.name).toBe('to b')
})

test('the state after a call that creates a resource is unknown until it answers', () => {
  const history = createHistory('a')
  const change = history.begin('to something', 10)
  expect(history.possible(11, 12)).toEqual([undefined, 'a'])
  change.to = 'b'
  change.answeredMs = 20
  expect(history.possible(21, 22)).toEqual(['b'])
})

test('a state older than the recorded changes is unknown', () => {
  const history = createHistory(0)
  for (let at = 1; at <= 1_000; at += 1) history.begin('next', at, at).answeredMs = at + 0.5
  expect(history.possible(999, 999.2)).toEqual([999, 998])
  expect(history.possible(1, 2)).toContain(undefined)
})
