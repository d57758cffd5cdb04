-- Functions and views move to sql/functions: each file holds the current bodies and their comments, and is applied again when
-- it changes. This migration comments the tables.
-- functions: 828156cdcd3af1c1544f0ab5709e15a4a7e52fb6690b09d1d65bcc2caca37c5d

comment on table schema_migrations is 'The numbered files of sql/ that were applied, with their checksums.';
comment on table schema_functions is 'The files of sql/functions as they were last applied, with their checksums.';

comment on table users is 'Accounts. A row is never deleted: closing an account clears the e-mail address and the password hash.';
comment on column users.email is 'Lower case, NFC. Null after the account is closed, so the address can register again.';
comment on column users.password_hash is 'Argon2id. Null after the account is closed.';
comment on column users.role is 'admin: an operator of the platform. It gives no access to content.';

comment on table sessions is 'One row for each sign-in: a family of refresh tokens on one device.';
comment on column sessions.idle_expires_at is 'When the session ends unless a refresh token is used before.';
comment on column sessions.expires_at is 'When the session ends at the latest.';
comment on column sessions.ended_at is 'When the session was ended before its expiry, for end_reason.';

comment on table refresh_tokens is 'Every refresh token issued to a session, so that the reuse of an old one is detected.';
comment on column refresh_tokens.token_hash is 'SHA-256 of the token. The token itself is not stored.';
comment on column refresh_tokens.rotated_at is 'When the token was exchanged for its successor. Null: it is the current one.';

comment on table signing_keys is 'Key pairs that sign access tokens.';
comment on column signing_keys.sealed_private_key is 'AES-256-GCM under a key derived from SECRET, with the kid as associated data.';
comment on column signing_keys.activates_at is 'From here to retires_at the key signs.';
comment on column signing_keys.expires_at is 'From its creation to here the key verifies tokens.';

comment on table teams is 'Teams. Each has exactly one member with the role owner.';
comment on table team_members is 'Memberships: one row for each user of a team.';
comment on table team_invitations is 'Invitations to a team by e-mail address; at most one is pending for a team and address.';
comment on column team_invitations.email is 'Lower case, NFC, as users.email.';
comment on column team_invitations.secret_hash is 'SHA-256 of the secret. The secret itself is not stored.';
comment on column team_invitations.status is 'An expired invitation stays pending until a new one replaces it.';

comment on table projects is 'Projects. A private project ignores its grants and keeps them.';
comment on column projects.allow_derivatives is 'Whether users other than its owner may create children of a generation in this project.';
comment on table project_grants is 'Grants: the access level of a team on a project.';

comment on table project_access is 'Effective access, maintained by triggers in the transaction of each change: never stale. No foreign keys, because their locks would break the lock order.';
comment on column project_access.actions is 'Bit set of the allowed actions. Both indexes include it, so a check reads only the index.';
comment on column project_access.owned is 'Whether the user owns the project. Grants through teams are cached apart from it.';
comment on table access_rules is 'The matrix of roles, access levels and actions. The program writes it at its start.';

comment on table generations is 'Generations: the order, its state and its lineage.';
comment on column generations.project_id is 'Null: outside a project. Deleting a project leaves its generations to their owners.';
comment on column generations.ancestor_ids is 'Ids of all ancestors, nearest first, fixed at creation. A deleted ancestor stays listed.';
comment on column generations.parameters is 'All parameters of the model, defaults included.';
comment on column generations.price is 'In credits, for all outputs together.';
comment on column generations.failure is 'Why it failed; a code of the program.';
comment on column generations.started_at is 'When the first attempt began.';
comment on table generation_favorites is 'Which generations a user has marked as favorites.';

comment on table generation_jobs is 'One row for each unfinished generation. A worker holds it by a lease.';
comment on column generation_jobs.priority is 'By the plan of the owner when the job was accepted; the lowest runs first.';
comment on column generation_jobs.attempt is 'Fencing number of the lease: a result of an earlier attempt is refused.';
comment on column generation_jobs.failures is 'Failed attempts. An attempt whose worker died does not count.';
comment on column generation_jobs.progress is 'Progress of the current attempt, from 0 to 1.';
comment on column generation_jobs.remote is 'The order at a remote provider, so that it is not placed twice.';
comment on column generation_jobs.reference_sha256 is 'The reference object. It stays stored until the job is over.';
comment on table order_cancellations is 'Orders to cancel at a provider. Written in the transaction that removes the job, deleted when the provider has confirmed.';
comment on column order_cancellations.generation_id is 'No foreign key: the generation may be deleted.';

comment on table media is 'Media: outputs of generations, and uploads (without a generation).';
comment on column media.position is 'Number of the output within its generation, from 0.';
comment on table media_objects is 'Stored objects, named by the SHA-256 of their bytes; several media can share one.';
comment on column media_objects.duration_ms is 'Null for pictures.';
comment on table media_claims is 'A claim protects an object while it is stored, until a media row refers to it. One older than an hour is abandoned.';
comment on table media_orphans is 'Objects that lost a reference and are deleted if no other reference is left.';
comment on table share_links is 'Links that give access to media without an account, until they expire or are removed.';
comment on column share_links.secret_hash is 'SHA-256 of the 32 random bytes in the link. The bytes themselves are not stored.';
comment on column share_links.expires_at is 'Null: the link does not expire.';

comment on table credit_ledger is 'Every change of a balance. Append-only.';
comment on column credit_ledger.amount is 'Added to the balance. reserve subtracts the price, refund returns it, settle is 0 and makes it final.';
comment on column credit_ledger.generation_id is 'No foreign key: the entry outlives the generation.';
comment on column credit_ledger.created_by is 'The operator who granted the credits.';
comment on table credit_balances is 'The sum of the ledger entries of each user, maintained by triggers and never negative.';
comment on table idempotency_keys is 'Responses to requests with an Idempotency-Key, kept for a day. The row is written in the transaction of the request.';
comment on column idempotency_keys.request_hash is 'SHA-256 of the request body with sorted members.';
comment on column idempotency_keys.status is 'Status of the response. Null only inside the transaction of the request.';
comment on column idempotency_keys.answer is 'Body of the response as text, so that a replay is equal byte by byte.';

comment on table service_keys is 'API keys of services.';
comment on column service_keys.secret_hash is 'SHA-256 of the 32 random bytes in the key. The bytes themselves are not stored.';
comment on table flags is 'Switches for operators. A flag without a row is on.';
comment on table access_events is 'Outbox of invalidation events: a row stays until Redis has confirmed the invalidation.';
comment on column access_events.keys is 'Invalidation keys; {*} stands for everything.';
comment on table access_heat is 'How often a user accesses a resource: a sample, scaled up. Rows may be lost, and have no foreign keys so that writing them takes no locks elsewhere.';
comment on column access_heat.hits is 'Frequency at last_at. It decays when it is read (heat_left), so ageing writes nothing.';
comment on table view_refreshes is 'When each materialized view was refreshed, so that one instance does it and the others skip it.';
