-- Where a generation comes from. Its ancestors are fixed when it is made, nearest first, and stay written down when one
-- of them is deleted; a deleted one reads like one that may not be seen.

alter table projects add column allow_derivatives boolean not null default true;

alter table generations
  add column title text not null default '',
  add column intent text not null default 'original',
  add column ancestor_ids uuid[] not null default '{}',
  add constraint generations__title_length check (length(title) <= 200),
  add constraint generations__intent check (intent in ('original', 'improve', 'iterate', 'fork', 'remix')),
  add constraint generations__depth check (cardinality(ancestor_ids) <= 64),
  add constraint generations__original_has_no_parent check ((intent = 'original') = (cardinality(ancestor_ids) = 0));

create table generation_favorites (
  user_id uuid not null,
  generation_id uuid not null,
  created_at timestamptz not null default now(),
  constraint generation_favorites__pkey primary key (user_id, generation_id),
  constraint generation_favorites__user_id foreign key (user_id) references users (id) on delete cascade,
  constraint generation_favorites__generation_id
    foreign key (generation_id) references generations (id) on delete cascade
);

create index generation_favorites__by_generation on generation_favorites (generation_id);
