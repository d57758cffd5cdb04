import { expect, test } from 'bun:test'
import { jsonTextOf, jsonTextOfList, withJsonText } from '../../src/http/json-text.ts'

test('the text of a body that was given one is that text, until another body is given one', () => {
  const body = withJsonText({ a: 1 }, '{"a":1.0}')
  expect(jsonTextOf(body)).toBe('{"a":1.0}')
  withJsonText({ b: 2 }, '{"b":2}')
  expect(jsonTextOf(body)).toBe('{"a":1}')
})

test('a copy of a body with a text of its own has the text of its own members', () => {
  const body = withJsonText({ hidden: 'x', shown: 1 }, '{"hidden":"x","shown":1}')
  expect(jsonTextOf({ ...body, hidden: null })).toBe('{"hidden":null,"shown":1}')
})

test('the text of a body that may change is made each time, that of a frozen one once', () => {
  const body = { a: 1 }
  expect(jsonTextOf(body)).toBe('{"a":1}')
  body.a = 2
  expect(jsonTextOf(body)).toBe('{"a":2}')
  let made = 0
  const frozen = Object.freeze({
    toJSON: () => {
      made += 1
      return 'text'
    },
  })
  expect([jsonTextOf(frozen), jsonTextOf(frozen), made]).toEqual(['"text"', '"text"', 1])
})

test('the text of a list is its JSON, for no body, one and several', () => {
  const bodies = [Object.freeze({ a: '"' }), { b: [1] }, Object.freeze({})]
  for (const length of [0, 1, 2, 3]) {
    expect(jsonTextOfList(bodies.slice(0, length))).toBe(JSON.stringify(bodies.slice(0, length)))
  }
})

test('values that are no objects have their JSON as text', () => {
  expect([null, 1, 'a', true].map(jsonTextOf)).toEqual(['null', '1', '"a"', 'true'])
})
