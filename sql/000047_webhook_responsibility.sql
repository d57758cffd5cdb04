-- A webhook of the operators depends on its responsible account too. The schema stays as it is, except for a comment.
comment on column webhooks.responsible_id is
  'Who last set the address. A webhook is sent only while this account is active, and an operator, for a team an admin or the owner.';
