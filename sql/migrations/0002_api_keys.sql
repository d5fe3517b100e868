create table api_keys (
  id                uuid primary key,
  key_hash          text not null unique check (key_hash ~ '^[0-9a-f]{64}$'),
  prefix            text not null check (length(prefix) between 1 and 10),
  name              text not null check (length(name) between 1 and 255),
  tenant_id         uuid not null references tenants,
  scopes            text[] not null check (cardinality(scopes) > 0),
  rate_limit        int check (rate_limit > 0),
  created_at        timestamptz not null,
  last_used_at      timestamptz,
  expires_at        timestamptz not null,
  revoked_at        timestamptz,
  created_by_key_id uuid references api_keys
) with (fillfactor = 80);

create index api_keys_of_tenant on api_keys (tenant_id, created_at desc);

comment on table api_keys is 'API keys. A key is shown once when it is made and stored only as a hash.';
comment on column api_keys.id is 'Names the key; never the key itself.';
comment on column api_keys.key_hash is 'SHA-256 of the whole key, 64 lower-case hex digits.';
comment on column api_keys.prefix is 'First ten characters of the key, shown to people.';
comment on column api_keys.name is 'Name shown to people.';
comment on column api_keys.tenant_id is 'The tenant it acts for.';
comment on column api_keys.scopes is 'What it may do: jobs:read, jobs:write, realtime, webhooks, admin.';
comment on column api_keys.rate_limit is 'Requests a minute; null is unlimited.';
comment on column api_keys.created_at is 'When it was made.';
comment on column api_keys.last_used_at is 'When it was last used, to the minute.';
comment on column api_keys.expires_at is 'When it stops working.';
comment on column api_keys.revoked_at is 'When it was revoked; the row stays.';
comment on column api_keys.created_by_key_id is 'The key that made it.';
