const maxLength = 254

/**
 * An address as it is stored and looked up: in lower case and NFC, which some letters have in lower case alone. Two
 * spellings that differ in no more are one person's. Either can make it longer than it was; what comes out longer than an
 * address can be (RFC 5321 §4.5.3.1) is undefined.
 */
export const canonicalEmail = (email: string): string | undefined => {
  const canonical = email.normalize('NFC').toLowerCase().normalize('NFC')
  return canonical.length <= maxLength ? canonical : undefined
}
