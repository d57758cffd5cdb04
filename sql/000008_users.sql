-- Operators suspend accounts, which ends their sessions, and look for accounts by what state they are in.

alter table sessions drop constraint sessions__end_reason;
alter table sessions add constraint sessions__end_reason check (
  end_reason in (
    'logout', 'logout_all', 'ended_by_user', 'password_changed', 'refresh_reused', 'account_closed', 'suspended'
  )
);

-- Few are suspended: without it, a page of those may take the whole table.
create index users__status on users (status, id);
