/** The texts of frozen bodies, such as decisions. Nothing in them may change, so each text is made once. */
const constantTexts = new WeakMap<object, string>()

/**
 * The text of the body that was made last. One suffices: a handler that waits for nothing is answered in the turn in which it
 * makes its body. The text of a body that was overtaken is made anew, so a body must say all that its text does.
 */
let latest: { readonly body: object; readonly text: string } | undefined

/** The JSON text of a body. */
export const jsonTextOf = (body: unknown): string => {
  if (typeof body !== 'object' || body === null) return JSON.stringify(body)
  if (latest?.body === body) return latest.text
  const known = constantTexts.get(body)
  if (known !== undefined) return known
  const text = JSON.stringify(body)
  if (Object.isFrozen(body)) constantTexts.set(body, text)
  return text
}

/** Gives a body its JSON text, where that is cheaper to join from parts than to make of the whole. It must not change any more. */
export const withJsonText = <B extends object>(body: B, text: string): B => {
  latest = { body, text }
  return body
}

/** The JSON of a list of frozen bodies. */
export const jsonTextOfList = (bodies: readonly object[]): string => {
  let text = ''
  for (const body of bodies) text += text === '' ? jsonTextOf(body) : `,${jsonTextOf(body)}`
  return `[${text}]`
}
