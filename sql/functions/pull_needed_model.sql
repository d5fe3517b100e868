-- pull_needed_model: queues the pull of a model that tasks wait for and no worker offers. False, changing nothing, when
-- it is under way or being removed, or ended less than p_pause_seconds ago: badly, or well and nobody offers the model
-- all the same. Called by the API every second for each of needed_models() that may be pulled.
create or replace function pull_needed_model(
  p_model text, p_engine text, p_stage text, p_expected_bytes bigint, p_pause_seconds double precision
) returns boolean
language plpgsql
as $$
declare
  v_now timestamptz := dalston_now();
begin
  insert into models (id, engine, stage, created_at, updated_at) values (p_model, p_engine, p_stage, v_now, v_now)
  on conflict do nothing;
  perform from models
    where id = p_model and not removing
      and (status = 'not_downloaded'
           or status in ('ready', 'failed') and updated_at <= v_now - make_interval(secs => p_pause_seconds))
      for no key update;
  if not found then
    return false;
  end if;
  perform queue_model_pull(p_model, p_expected_bytes, false);
  return true;
end
$$;
