/**
 * How a picture or a film came to be, by the IPTC vocabulary of digital source types
 * (https://cv.iptc.org/newscodes/digitalsourcetype/): `trainedAlgorithmicMedia` was made by a model,
 * `algorithmicMedia` by a program without a model.
 */
export type DigitalSource = string

const vocabulary = 'http://cv.iptc.org/newscodes/digitalsourcetype/'
/** The address of a term, or a bare term where XMP names one. */
const named =
  /(?:cv\.iptc\.org\/newscodes\/digitalsourcetype\/|DigitalSourceType(?:>|=["'])(?!https?:))([A-Za-z]{3,60})/g
/** Named first where a file names several: a part made by a model weighs more than the rest. */
const byModel = ['trainedAlgorithmicMedia', 'compositeWithTrainedAlgorithmicMedia']

export const isByModel = (source: DigitalSource | undefined): boolean =>
  source !== undefined && byModel.includes(source)

/** The digital source type that XMP or the text of a C2PA manifest names; undefined without one. */
export const digitalSourceIn = (text: string): DigitalSource | undefined => {
  const found = [...text.matchAll(named)].map(([, source]) => source)
  return byModel.find((source) => found.includes(source)) ?? found[0]
}

/** The RDF description that names a digital source type. */
export const digitalSourceDescription = (source: DigitalSource): string =>
  `<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType="${vocabulary}${source}"/>`

/** An XMP packet with these RDF descriptions (ISO 16684-1). */
export const xmpPacket = (descriptions: string): string =>
  `<?xpacket begin="\uFEFF" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">${descriptions}</rdf:RDF></x:xmpmeta><?xpacket end="w"?>`

/** An XMP packet that names the digital source type and nothing else. */
export const xmpOf = (source: DigitalSource): string => xmpPacket(digitalSourceDescription(source))

const endOfRdf = '</rdf:RDF>'
const place = /GPS(?:Latitude|Longitude)/

export const namesPlace = (text: string): boolean => place.test(text)

/**
 * The XMP of a provider, completed by the digital source type if it names none. A packet that names a place, or cannot be
 * completed, is replaced by `xmpOf`.
 */
export const withDigitalSource = (packet: string, source: DigitalSource): string => {
  if (namesPlace(packet)) return xmpOf(digitalSourceIn(packet) ?? source)
  if (digitalSourceIn(packet) !== undefined) return packet
  const at = packet.lastIndexOf(endOfRdf)
  return at === -1 ? xmpOf(source) : packet.slice(0, at) + digitalSourceDescription(source) + packet.slice(at)
}
