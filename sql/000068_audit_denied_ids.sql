-- Events that several denials share are found by the resources that they name.
-- functions: cecf05891a8fa93ffc9723b7686b191f931e5a04b5313ff9c7faf6e4987a5fcc

create or replace function audit_denied_ids(after json) returns text[]
  language sql immutable parallel safe
  return case when json_typeof(after -> 'denials') = 'array'
              then array(select denial ->> 'id' from json_array_elements(after -> 'denials') as denial) end;
create index audit_events__denied_ids on audit_events using gin (audit_denied_ids(after))
 where action = 'access.denied' and target_type = 'user';
