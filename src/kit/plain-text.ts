/** Line breaks and other controls, and characters that reorder text: they could forge lines of a mail or hide what a name says. */
const controls = '\\u0000-\\u001f\\u007f-\\u009f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069'

/** Text on one line, not only white space, without controls or characters that reorder text. For a JSON Schema: without flags. */
export const namePattern = `^(?=[\\s\\S]*\\S)[^${controls}]*$`

const anyControl = new RegExp(`[${controls}]+`, 'g')

/** What a mail program may turn into a link: a scheme, or a name with a dot before letters. */
const linkLike = /:\/\/|\bwww\.|[\p{L}\p{N}]\.\p{L}{2,}/iu

/**
 * Text that a person chose, for a mail to another person: on one line, at most `maxLength` characters. Undefined where nothing is
 * left, or where it could become a link in a mail that we sign.
 */
export const quotable = (text: string, maxLength = 100): string | undefined => {
  const line = text.replace(anyControl, ' ').trim()
  if (line === '' || linkLike.test(line)) return undefined
  const characters = [...line]
  return characters.length <= maxLength ? line : `${characters.slice(0, maxLength - 1).join('')}…`
}
