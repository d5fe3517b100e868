-- create_api_key: stores a key; without p_expires_at it works until the end of 2099. Called by the API and the command
-- line.
create or replace function create_api_key(
  p_id uuid, p_key_hash text, p_prefix text, p_name text, p_tenant uuid, p_scopes text[], p_rate_limit int,
  p_expires_at timestamptz, p_created_by uuid
) returns api_keys
language sql
as $$
  insert into api_keys (id, key_hash, prefix, name, tenant_id, scopes, rate_limit, created_at, expires_at, created_by_key_id)
  values (p_id, p_key_hash, p_prefix, p_name, p_tenant, p_scopes, p_rate_limit, dalston_now(),
          coalesce(p_expires_at, '2099-12-31 23:59:59Z'), p_created_by)
  returning *
$$;
