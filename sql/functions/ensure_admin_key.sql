-- ensure_admin_key: stores the first administrator key, unless a key that is not revoked exists; true when it was
-- stored. Safe when several processes start at once. Called when the server starts.
create or replace function ensure_admin_key(
  p_id uuid, p_key_hash text, p_prefix text, p_name text, p_tenant uuid, p_scopes text[]
) returns boolean
language plpgsql
as $$
begin
  lock table api_keys in share row exclusive mode;
  if exists (select from api_keys where revoked_at is null) then
    return false;
  end if;
  perform create_api_key(p_id, p_key_hash, p_prefix, p_name, p_tenant, p_scopes, null, null, null);
  return true;
end
$$;
