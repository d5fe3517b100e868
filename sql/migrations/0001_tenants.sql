create table tenants (
  id             uuid primary key,
  name           text not null unique check (name <> ''),
  weight         real not null default 1 check (weight > 0),
  virtual_time   bigint not null default 0 check (virtual_time >= 0),
  max_running    int check (max_running > 0),
  settings       jsonb not null default '{}',
  created_at     timestamptz not null default now(),
  updated_at     timestamptz not null default now()
) with (fillfactor = 70);

comment on table tenants is 'Who pays for jobs. Work is shared fairly between tenants (see virtual_time), and a tenant may be capped.';
comment on column tenants.id is 'The default tenant is 00000000-0000-0000-0000-000000000000.';
comment on column tenants.name is 'Name shown to people, unique.';
comment on column tenants.weight is 'Share of the workers when all tenants want them; 2 gets twice as much as 1.';
comment on column tenants.virtual_time is 'Start-time fair queueing: where this tenant''s next job is filed, in microseconds of audio divided by weight. Moved on by submit_job; also the row that orders the submits of one tenant.';
comment on column tenants.max_running is 'Most tasks ready or running at a time; further ones are held. Null is no cap. Set it with set_tenant_cap().';
comment on column tenants.settings is 'Settings of this tenant, by name.';
comment on column tenants.created_at is 'When it was made.';
comment on column tenants.updated_at is 'When it was last changed by a person.';

insert into tenants (id, name) values ('00000000-0000-0000-0000-000000000000', 'default');
