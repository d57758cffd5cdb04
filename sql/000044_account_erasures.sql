-- Closed accounts whose content is not erased yet.
create table account_erasures (
  user_id uuid primary key references users (id),
  requested_at timestamptz not null
);
comment on table account_erasures is
  'Closed accounts of which uploads, generations, projects and records are still to be erased. A row is deleted once nothing is left.';
create index account_erasures__requested_at on account_erasures (requested_at);

-- Imported users may have no password. The version before refuses every password of such an account.
alter table users drop constraint users__deleted_keeps_nothing;
alter table users add constraint users__deleted_keeps_nothing check (
  (status = 'deleted') = (email is null) and (status <> 'deleted' or password_hash is null)
);
comment on column users.password_hash is 'Argon2id, or the hash of another system until the next sign-in. Null: the account has no password, or is closed.';

alter table sessions drop constraint sessions__end_reason;
alter table sessions add constraint sessions__end_reason check (
  end_reason in ('logout', 'logout_all', 'ended_by_user', 'ended_by_operator', 'password_changed', 'password_reset',
                 'refresh_reused', 'account_closed', 'suspended', 'replaced'));
