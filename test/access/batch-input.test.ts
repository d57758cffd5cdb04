import { expect, test } from 'bun:test'
import { TypeCompiler } from '@sinclair/typebox/compiler'
import fc from 'fast-check'
import { batch, isBatch } from '../../src/access/model.ts'
import { actions, resourceTypes } from '../../src/access/policy/matrix.ts'
import { idOf } from './random.ts'

const schema = TypeCompiler.Compile(batch)
const id = idOf('project', 1)

/** Mostly valid, with a wrong value here and there. */
const oddly = (valid: fc.Arbitrary<unknown>) =>
  fc.oneof(
    { weight: 20, arbitrary: valid },
    fc.constantFrom(
      null,
      1,
      '',
      'Read',
      id.toUpperCase(),
      ` ${id}`,
      `${id}\n`,
      [id],
      ['read'],
      ['project'],
      {},
      [],
      true,
    ),
    fc.constantFrom('constructor', 'toString', '__proto__', 'hasOwnProperty'),
  )
/** A record that now and then has a member more. */
const record = (
  required: Record<string, fc.Arbitrary<unknown>>,
  optional: Record<string, fc.Arbitrary<unknown>> = {},
) => {
  const all = { ...required, ...optional }
  const requiredKeys = Object.keys(required)
  return fc.oneof(
    { weight: 20, arbitrary: fc.record(all, { requiredKeys }) },
    fc.record<Record<string, unknown>>({ ...all, more: fc.constant(1) }, { requiredKeys: [...requiredKeys, 'more'] }),
  )
}
const resource = record({ type: oddly(fc.constantFrom(...resourceTypes)), id: oddly(fc.constant(id)) })
const check = record(
  { action: oddly(fc.constantFrom(...actions)), resource: oddly(resource) },
  { user_id: oddly(fc.constant(id)) },
)
const without = (value: object, member: string) =>
  Object.fromEntries(Object.entries(value).filter(([name]) => name !== member))

const valid = { checks: [{ user_id: id, action: 'read', resource: { type: 'media', id } }] }

test('a batch is accepted without its schema exactly where the schema accepts it', () => {
  const body = record({ checks: oddly(fc.array(oddly(check), { minLength: 1, maxLength: 3 })) })
  let accepted = 0
  fc.assert(
    fc.property(fc.oneof(body, fc.jsonValue()), (value) => {
      const parsed: unknown = JSON.parse(JSON.stringify(value))
      if (isBatch(parsed)) accepted += 1
      expect(isBatch(parsed)).toBe(schema.Check(parsed))
    }),
    { numRuns: 5_000 },
  )
  expect(accepted).toBeGreaterThan(100)
})

test('a batch that lacks a member, or has one too many, is not accepted', () => {
  const [first] = valid.checks as [(typeof valid.checks)[number]]
  const bodies = [
    {},
    { checks: [] },
    { ...valid, more: 1 },
    { checks: [without(first, 'action')] },
    { checks: [without(first, 'resource')] },
    { checks: [{ ...first, more: 1 }] },
    { checks: [{ ...without(first, 'user_id'), more: 1 }] },
    { checks: [{ ...first, resource: without(first.resource, 'id') }] },
    { checks: [{ ...first, resource: { ...first.resource, more: 1 } }] },
    JSON.parse('{"checks":[{"action":"read","resource":{"type":"media","id":"x","__proto__":{}}}]}'),
    { checks: Array.from({ length: 201 }, () => first) },
  ]
  for (const body of bodies)
    expect([JSON.stringify(body).slice(0, 80), isBatch(body)]).toEqual([expect.any(String), false])
  for (const body of bodies) expect(schema.Check(body)).toBe(false)
  expect(isBatch({ checks: Array.from({ length: 200 }, () => first) })).toBe(true)
})
