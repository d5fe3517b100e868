-- request_model_pull: queues a pull, for whichever worker takes it first. Answers ready (it is there, and p_force was
-- not said), in_progress (somebody asked before) or started. Called by the API.
create or replace function request_model_pull(
  p_model text, p_engine text, p_stage text, p_expected_bytes bigint, p_force boolean
) returns text
language plpgsql
as $$
declare
  v_now timestamptz := dalston_now();
  v_row models;
begin
  insert into models (id, engine, stage, created_at, updated_at) values (p_model, p_engine, p_stage, v_now, v_now)
  on conflict do nothing;
  select * into v_row from models where id = p_model for no key update;
  if v_row.status = 'downloading' then
    return 'in_progress';
  end if;
  if not p_force and not v_row.removing and model_is_present(p_model) then
    return 'ready';
  end if;
  perform queue_model_pull(p_model, p_expected_bytes, p_force);
  return 'started';
end
$$;
