import { fillIn, type MailParameters, type MailTemplate, type MailTexts } from './texts.ts'

export type RenderedMail = { readonly subject: string; readonly text: string; readonly html: string }

const escapes: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}
const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (character) => escapes[character] ?? '')

const isLink = (text: string): boolean => text === '{link}'

/** Line breaks would begin another header, and other controls hide text. */
const controls = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]+/gu

const page = (body: string): string => `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"></head>
<body style="font-family:sans-serif;font-size:16px;line-height:1.5;max-width:36em;margin:0 auto;padding:1em">
${body}
</body>
</html>
`

/**
 * A mail as text and as HTML with the same content. Values are on one line and escaped; nothing is loaded from elsewhere. Every
 * template has a text, of ours or of MAIL_TEXTS.
 */
export const renderMail = <T extends MailTemplate>(
  texts: MailTexts,
  template: T,
  parameters: MailParameters<T>,
  product: string,
): RenderedMail => {
  const { subject, paragraphs, button }: MailTexts[MailTemplate] = texts[template]
  const given: Readonly<Record<string, string | number>> = { ...parameters, product }
  const values = Object.fromEntries(
    Object.entries(given).map(([name, value]) => [name, String(value).replace(controls, ' ').trim()]),
  )
  const link = values['link'] ?? ''
  const escaped = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, escapeHtml(value)]))
  const blocks = paragraphs.map((paragraph) =>
    isLink(paragraph)
      ? `<p><a href="${escapeHtml(link)}">${fillIn(escapeHtml(button ?? link), escaped)}</a></p>`
      : `<p>${fillIn(escapeHtml(paragraph), escaped)}</p>`,
  )
  return {
    subject: fillIn(subject, values).replace(controls, ' '),
    text: `${paragraphs.map((paragraph) => fillIn(paragraph, values)).join('\n\n')}\n`,
    html: page(blocks.join('\n')),
  }
}
