import { expect, test } from 'bun:test'
import { entityTag, matchesEntityTag } from '../../src/kit/entity-tag.ts'

test('a client has what one of its tags names, strong or weak, or whatever there is', () => {
  const tag = entityTag('abc-256')
  for (const header of [tag, `W/${tag}`, `"x",${tag}`, ` "x" , W/${tag} `, '*']) {
    expect([header, matchesEntityTag(header, tag)]).toEqual([header, true])
  }
  for (const header of [null, '', 'abc-256', '"abc"', `"x", "y"`, `w/${tag}`, `${tag.slice(0, -1)}`]) {
    expect([header, matchesEntityTag(header, tag)]).toEqual([header, false])
  }
})
