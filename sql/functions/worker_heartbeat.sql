-- worker_heartbeat: a worker says that it is alive and learns whether it should drain; null when it is not known (any
-- more) and must register again. Called by workers every few seconds.
create or replace function worker_heartbeat(
  p_worker uuid, p_loaded_models text[], p_model_bytes bigint[], p_active_tasks int
) returns boolean
language sql
as $$
  update workers
     set last_seen_at = dalston_now(), loaded_models = p_loaded_models, model_bytes = p_model_bytes,
         active_tasks = p_active_tasks
   where id = p_worker
  returning draining
$$;
