const maxDefaultNameLength = 100

/** The name of an account whose owner gave none: the address up to its `@`. */
export const defaultDisplayName = (email: string): string =>
  email.slice(0, Math.min(email.indexOf('@'), maxDefaultNameLength))
