/** Of this program and its API. */
export const productVersion = '0.1.0'
