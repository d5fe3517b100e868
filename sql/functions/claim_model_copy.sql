-- claim_model_copy: a worker wants to copy a model of its own to the object store; answers the token, or null when the
-- store has it or somebody else is at it. Called by workers that share their models through the object store.
create or replace function claim_model_copy(
  p_worker uuid, p_model text, p_engine text, p_stage text, p_lease_seconds double precision
) returns bigint
language plpgsql
as $$
declare
  v_now timestamptz := dalston_now();
  v_transfer bigint;
begin
  insert into models (id, engine, stage, status, created_at, updated_at)
  values (p_model, p_engine, p_stage, 'ready', v_now, v_now) on conflict do nothing;
  update models
     set transfer = transfer + 1, transfer_worker = p_worker,
         transfer_ends_at = v_now + make_interval(secs => p_lease_seconds)
   where id = p_model and stored is null and not removing and status <> 'downloading'
     and (transfer_ends_at is null or transfer_ends_at < v_now)
  returning transfer into v_transfer;
  return v_transfer;
end
$$;
