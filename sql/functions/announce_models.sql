-- announce_models: a worker says which models are on its disk (a JSON array); what it said before is replaced. A model
-- that was to be removed and that no live worker has any more is forgotten. False when the worker is not known (any
-- more). Called by workers after they registered, and when a model came or went.
create or replace function announce_models(p_worker uuid, p_models jsonb) returns boolean
language plpgsql
as $$
begin
  perform from workers where id = p_worker for key share;
  if not found then
    return false;
  end if;
  delete from worker_models where worker_id = p_worker;
  insert into worker_models (worker_id, model, engine, stage, size_bytes, component, folder, since)
  select p_worker, m->>'model', m->>'engine', m->>'stage', (m->>'size_bytes')::bigint, (m->>'component')::boolean,
         m->>'folder', (m->>'since')::timestamptz
    from jsonb_array_elements(p_models) as e (m)
  on conflict do nothing;
  perform from models m where m.removing order by m.id for update;
  delete from models m
   where m.removing and m.overrides = '{}' and m.hub = '{}' and not model_is_present(m.id);
  update models m set removing = false, updated_at = dalston_now()
   where m.removing and not model_is_present(m.id);
  return true;
end
$$;
