/** An address as it is stored and looked up: NFC, lower case. Two spellings that differ in no more are one person's. */
export const canonicalEmail = (email: string): string => email.normalize('NFC').toLowerCase()
