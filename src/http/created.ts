/** Sets the Location of a new resource (RFC 9110 §10.2.2): a path, so that it is right behind every proxy. */
export const createdAt = <T>(
  set: { readonly headers: { location?: string | undefined } },
  pathOf: (created: T) => string,
  created: T,
): T => {
  set.headers.location = pathOf(created)
  return created
}
