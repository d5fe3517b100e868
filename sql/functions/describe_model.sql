-- describe_model: remembers what the hub says of a model, and the engine its files are for. Called by the API.
create or replace function describe_model(p_model text, p_engine text, p_stage text, p_hub jsonb) returns void
language sql
as $$
  insert into models (id, engine, stage, hub, created_at, updated_at)
  values (p_model, p_engine, p_stage, p_hub, dalston_now(), dalston_now())
  on conflict (id) do update
    set engine = coalesce(p_engine, models.engine), stage = coalesce(p_stage, models.stage), hub = p_hub,
        updated_at = dalston_now()
$$;
