-- Denials of an asker that has many in a minute share events, which name the resources in a list.

create or replace function audit_denied_ids(after json) returns text[]
  language sql immutable parallel safe
  return case when json_typeof(after -> 'denials') = 'array'
              then array(select denial ->> 'id' from json_array_elements(after -> 'denials') as denial) end;
comment on function audit_denied_ids(json) is
  'The ids of the resources in an event that several denials share. An index of audit_events is made of them.';
