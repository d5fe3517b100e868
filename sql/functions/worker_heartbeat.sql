-- worker_heartbeat: a worker says that it is alive and learns whether it should drain; null when it is not known (any
-- more) and must register again. Called by workers every few seconds.
create or replace function worker_heartbeat(
  p_worker uuid, p_loaded_models text[], p_model_bytes bigint[], p_active_tasks int
) returns boolean
language sql
as $$
  with used as (
    select l.id from unnest(p_loaded_models) as l (id) left join models m on m.id = l.id
     where p_active_tasks > 0 and (m.last_used_at is null or m.last_used_at < dalston_now() - interval '1 h')
  ), noted as (
    insert into models (id, last_used_at, created_at, updated_at)
    select id, dalston_now(), dalston_now(), dalston_now() from used order by id
    on conflict (id) do update set last_used_at = excluded.last_used_at
  )
  update workers
     set last_seen_at = dalston_now(), loaded_models = p_loaded_models, model_bytes = p_model_bytes,
         active_tasks = p_active_tasks
   where id = p_worker
  returning draining
$$;
