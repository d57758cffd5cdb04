-- Access frequency, for prefetching. No decision depends on it.

-- The half-life is one hour. Beyond 60 hours the age no longer matters, and a smaller power would be an error.
create or replace function heat_left(hits double precision, last_at timestamptz) returns double precision
  language sql stable parallel safe
  return hits * power(0.5::double precision,
                      least(greatest(extract(epoch from now() - last_at) / 3600, 0), 60)::double precision);
comment on function heat_left(double precision, timestamptz) is
  'Decayed frequency: half of the hits remain after each hour.';

create or replace view access_heat_alive as
  select h.user_id, h.resource_type, h.resource_id, heat_left(h.hits, h.last_at) as heat
    from access_heat h
    join users u on u.id = h.user_id and u.status = 'active'
    left join projects p on h.resource_type = 'project' and p.id = h.resource_id
    left join generations g on h.resource_type = 'generation' and g.id = h.resource_id
   where (p.id is not null or g.id is not null) and heat_left(h.hits, h.last_at) >= 1;
comment on view access_heat_alive is
  'Frequencies worth keeping: of active users and existing resources, with a decayed frequency of at least 1.';
