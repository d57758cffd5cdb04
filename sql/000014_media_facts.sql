-- Media are things that decisions are made about, so their rows tell what becomes of them, as every such table does.

create function note_changed_media() returns trigger language plpgsql as $$
begin
  perform note_touched((
    select string_agg(concat('media:', id, e'\n'), '') from before b full join after a using (id)
     where (a.owner_id, a.generation_id, a.sha256)
           is distinct from (b.owner_id, b.generation_id, b.sha256)));
  return null;
end $$;

create trigger touched_by_update after update on media
  referencing old table as before new table as after for each statement execute function note_changed_media();
create trigger touched_by_delete after delete on media
  referencing old table as before for each statement execute function note_removed('media');
create trigger touched_by_truncate after truncate on media for each statement execute function note_everything();
