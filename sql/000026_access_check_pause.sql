-- The program decides how long the check of effective access pauses.
comment on column access_checks.took is 'Duration of the last run. The longer it took, the later the next one is due.';
