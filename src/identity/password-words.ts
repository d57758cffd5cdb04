/** Shorter words occur in too many good passwords by chance. */
const minWordLength = 3

/** Characters that are written for a letter, by that letter. One letter stands for those that are confused with each other. */
const lookalikes: ReadonlyMap<string, string> = new Map(
  ['i1l!|', 'o0', 'e3', 'a4@', 's5$', 't7+'].flatMap((group) =>
    [...group].map((character) => [character, group.charAt(0)]),
  ),
)

const foldLookalikes = (characters: readonly string[]): string[] =>
  characters.map((character) => lookalikes.get(character) ?? character)

/** The characters that are compared: without regard to case and to compatibility forms. */
const charactersOf = (text: string): string[] => [...text.normalize('NFKC').toLowerCase()]

const isLongEnough = (word: string): boolean => charactersOf(word).length >= minWordLength

/**
 * The words of an e-mail address: the local part, its parts between signs, and the labels of the domain without the last. So
 * `ada.byron@maths.example.com` gives ada.byron, ada, byron, maths and example.
 */
export const wordsOfAddress = (email: string): string[] => {
  const at = email.lastIndexOf('@')
  const local = at < 0 ? email : email.slice(0, at)
  const labels = at < 0 ? [] : email.slice(at + 1).split('.')
  return [local, ...local.split(/[^\p{L}\p{N}]+/u), ...labels.slice(0, -1)].filter(isLongEnough)
}

const startsAt = (text: readonly string[], word: readonly string[], at: number): boolean =>
  word.every((character, index) => text[at + index] === character)

/**
 * The rest of a password without these words, wherever they occur; undefined where none occurs. A word is also found with
 * characters that look like its letters (`V3lr0`).
 */
export const withoutWords = (password: string, words: readonly string[]): string | undefined => {
  const characters = charactersOf(password)
  const folded = foldLookalikes(characters)
  // Longer words first: a word may be part of another one.
  const wanted = words
    .filter(isLongEnough)
    .map((word) => foldLookalikes(charactersOf(word)))
    .toSorted((one, other) => other.length - one.length)
  const rest: string[] = []
  for (let at = 0; at < characters.length; ) {
    const found = wanted.find((word) => startsAt(folded, word, at))
    if (found === undefined) rest.push(characters[at] ?? '')
    at += found?.length ?? 1
  }
  return rest.length === characters.length ? undefined : rest.join('')
}
