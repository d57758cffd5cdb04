import { expect, test } from 'bun:test'
import { entityTag, matchesEntityTag, matchesStrongly } from '../../src/kit/entity-tag.ts'

test('If-None-Match matches a strong tag, a weak tag, a tag in a list, and *', () => {
  const tag = entityTag('abc-256')
  for (const header of [tag, `W/${tag}`, `"x",${tag}`, ` "x" , W/${tag} `, '*']) {
    expect([header, matchesEntityTag(header, tag)]).toEqual([header, true])
  }
  for (const header of [null, '', 'abc-256', '"abc"', `"x", "y"`, `w/${tag}`, `${tag.slice(0, -1)}`]) {
    expect([header, matchesEntityTag(header, tag)]).toEqual([header, false])
  }
})

test('If-Match matches a strong tag, a tag in a list, and *, but no weak tag', () => {
  const tag = entityTag('abc-256')
  for (const header of [tag, `"x",${tag}`, ` "x" , ${tag} `, '*']) {
    expect([header, matchesStrongly(header, tag)]).toEqual([header, true])
  }
  for (const header of ['', 'abc-256', `W/${tag}`, '"abc"', `"x", "y"`]) {
    expect([header, matchesStrongly(header, tag)]).toEqual([header, false])
  }
})
