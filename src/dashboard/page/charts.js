import uPlot from '/dashboard/uplot.js'

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()
const timeOf = (seconds) => new Date(seconds * 1_000).toLocaleTimeString('en-GB')

const axis = (format, size) => ({
  stroke: () => colour('muted'),
  grid: { stroke: () => colour('line'), width: 1 },
  ticks: { show: false },
  font: '11px system-ui, sans-serif',
  size,
  values: (_, values) => values.map(format),
})

/** A chart of lines over time: the colour of each, and whether it is dashed. `format` is that of the values. */
export const createChart = (place, lines, format) => {
  const sizeOf = () => ({ width: place.clientWidth, height: place.clientHeight })
  const plot = new uPlot(
    {
      ...sizeOf(),
      series: [
        {},
        ...lines.map(({ ink, dashed }) => ({
          stroke: () => colour(ink),
          width: dashed ? 1 : 1.75,
          points: { show: false },
          ...(dashed && { dash: [4, 4] }),
        })),
      ],
      axes: [
        { ...axis(timeOf, 26), space: 90 },
        { ...axis(format, 62), space: 36 },
      ],
      scales: { y: { range: (_, low, high) => [0, Math.max(high ?? 0, low ?? 0, 0.001) * 1.1] } },
      legend: { show: false },
      cursor: { show: false },
    },
    [[], ...lines.map(() => [])],
    place,
  )
  const observer = new ResizeObserver(() => plot.setSize(sizeOf()))
  observer.observe(place)
  const scheme = matchMedia('(prefers-color-scheme: dark)')
  const redraw = () => plot.redraw()
  scheme.addEventListener('change', redraw)
  return {
    /** Shows these points: a time in seconds, and the values of all lines. */
    show: (points) =>
      plot.setData([
        points.map(({ seconds }) => seconds),
        ...lines.map((_, at) => points.map(({ values }) => values[at])),
      ]),
    remove: () => {
      observer.disconnect()
      scheme.removeEventListener('change', redraw)
      plot.destroy()
    },
  }
}
