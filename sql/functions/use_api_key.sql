-- use_api_key: the valid key with this hash, if there is one, and a note that it was used, at most once a minute so
-- that a busy key is not a busy row. Called by the API for every request.
create or replace function use_api_key(p_key_hash text) returns setof api_keys
language plpgsql
as $$
declare
  v_now timestamptz := dalston_now();
  v_key api_keys;
begin
  select * into v_key from api_keys where key_hash = p_key_hash and revoked_at is null and expires_at > v_now;
  if not found then
    return;
  end if;
  if v_key.last_used_at is null or v_key.last_used_at <= v_now - interval '1 min' then
    update api_keys set last_used_at = v_now
     where id = v_key.id and (last_used_at is null or last_used_at <= v_now - interval '1 min');
    v_key.last_used_at := v_now;
  end if;
  return next v_key;
end
$$;
